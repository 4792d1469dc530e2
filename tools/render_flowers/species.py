"""The four species as numbers: a new one is one more entry in `SPECIES`, no new code."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]  # linear light, 0..1

# How hard the set is. Raise any of these to make the species harder to tell apart.
SHAPE_SPREAD = 0.07  # how far leaf proportions stray within a species (deviation of the logarithm)
COLOUR_SPREAD = 0.10  # how far leaf colours stray within a species (deviation of the logarithm)
SEEDLING_SHARE = 0.05  # share of plants so young that their leaves are hardly characteristic
BLOSSOM_SHARE = 0.76  # share of plants in bloom; the others are known by their leaves alone
DEFECT_SHARE = 0.30  # share of plants with spots, holes or yellowing
BAD_SHOT_SHARE = 0.08  # share of pictures that are blurred, shaken or badly exposed


@dataclass(frozen=True)
class Leaf:
    """Proportions of a leaf; lengths are shares of its length, heights shares of its half-width."""

    petiole: float  # length of the stalk
    stalk: float  # half-width of the stalk
    width: float  # half-width of the blade
    base: float  # taper towards the stalk: < 1 rounded, > 1 wedge
    tip: float  # taper towards the tip: 0.4 round, 1 pointed
    teeth: float  # depth of the teeth
    wave: float  # waviness of the margin
    fold: float  # > 0: folded up along the midrib, < 0: edges roll down
    droop: float  # how far the tip bends down
    veins: float  # side veins on each side
    slant: float  # how far the side veins lean towards the tip
    relief: float  # depth of the veins
    rugose: float  # blisters between the veins
    pale: float  # how much lighter than the blade the veins are
    gloss: float  # waxiness


@dataclass(frozen=True)
class Flower:
    """One blossom; lengths are shares of the flower's radius unless noted."""

    radius: tuple[float, float]  # canvas pixels
    petals: tuple[int, int]
    whorls: int
    width: float  # half-width of a petal
    base: float
    tip: float
    notch: float  # depth of the notch in the tip
    cup: float  # how steeply the petals rise
    ribs: float  # lengthwise grooves
    colours: tuple[Colour, ...]
    eye: Colour  # stain around the middle of the petals
    eye_radius: float
    disc: Colour
    disc_radius: float
    stalks: tuple[int, int]
    cluster: tuple[int, int]  # flowers on a stalk
    reach: float  # distance from the plant's middle, share of the rosette's radius


@dataclass(frozen=True)
class Species:
    """How a species looks; pairs are the least and the most, or seedling and grown plant."""

    name: str
    leaf: Leaf
    flower: Flower
    green: Colour
    number: tuple[int, int]  # of leaves
    radius: tuple[float, float]  # share of the canvas's shorter side
    turn: float  # degrees from one leaf to the next


WHITE, PINK = (0.66, 0.66, 0.62), (0.62, 0.20, 0.34)

# The first leaves of any plant: small, roundish, plain. Species are hard to tell by them.
JUVENILE = Leaf(
    petiole=0.36, stalk=0.030, width=0.23, base=0.70, tip=0.48, teeth=0.01, wave=0.08, fold=-0.12,
    droop=0.16, veins=4, slant=1.0, relief=0.018, rugose=0.014, pale=0.14, gloss=0.25,
)  # fmt: skip

ARABIDOPSIS = Species(
    name="arabidopsis", green=(0.120, 0.205, 0.058), number=(4, 24), radius=(0.13, 0.40),
    turn=137.5,
    leaf=Leaf(
        petiole=0.40, stalk=0.026, width=0.165, base=0.85, tip=0.50, teeth=0.03, wave=0.12,
        fold=-0.28, droop=0.22, veins=4, slant=1.2, relief=0.018, rugose=0.014, pale=0.16,
        gloss=0.22,
    ),
    flower=Flower(
        radius=(11, 16), petals=(4, 4), whorls=1, width=0.36, base=1.1, tip=0.42, notch=0.0,
        cup=0.3, ribs=0.02, colours=(WHITE,), eye=(0.45, 0.55, 0.12), eye_radius=0.30,
        disc=(0.50, 0.55, 0.08), disc_radius=0.16, stalks=(1, 3), cluster=(4, 9), reach=0.35,
    ),
)  # fmt: skip

DAISY = Species(
    name="daisy", green=(0.100, 0.185, 0.048), number=(4, 26), radius=(0.13, 0.42), turn=137.5,
    leaf=Leaf(
        petiole=0.26, stalk=0.045, width=0.170, base=1.45, tip=0.40, teeth=0.08, wave=0.15,
        fold=0.22, droop=0.20, veins=4, slant=1.5, relief=0.025, rugose=0.022, pale=0.22,
        gloss=0.30,
    ),
    flower=Flower(
        radius=(44, 70), petals=(34, 52), whorls=2, width=0.055, base=0.30, tip=0.35, notch=0.0,
        cup=0.12, ribs=0.05, colours=(WHITE, WHITE, (0.64, 0.54, 0.56), (0.60, 0.38, 0.45)),
        eye=(0.70, 0.72, 0.62), eye_radius=0.40, disc=(0.80, 0.52, 0.03), disc_radius=0.33,
        stalks=(1, 5), cluster=(1, 1), reach=0.75,
    ),
)  # fmt: skip

PRIMROSE = Species(
    name="primrose", green=(0.105, 0.195, 0.050), number=(4, 22), radius=(0.14, 0.46), turn=142.0,
    leaf=Leaf(
        petiole=0.14, stalk=0.050, width=0.185, base=0.95, tip=0.42, teeth=0.055, wave=0.20,
        fold=0.16, droop=0.24, veins=10, slant=0.9, relief=0.045, rugose=0.085, pale=0.40,
        gloss=0.20,
    ),
    flower=Flower(
        radius=(32, 50), petals=(5, 5), whorls=1, width=0.46, base=0.85, tip=0.38, notch=0.14,
        cup=0.12, ribs=0.02,
        colours=((0.80, 0.70, 0.25), (0.78, 0.62, 0.05), PINK, (0.26, 0.10, 0.50), WHITE,
                 (0.55, 0.02, 0.08)),
        eye=(0.82, 0.58, 0.03), eye_radius=0.38, disc=(0.55, 0.50, 0.06), disc_radius=0.08,
        stalks=(2, 6), cluster=(1, 3), reach=0.38,
    ),
)  # fmt: skip

TOBACCO = Species(
    name="tobacco", green=(0.140, 0.225, 0.058), number=(3, 14), radius=(0.14, 0.48), turn=135.0,
    leaf=Leaf(
        petiole=0.10, stalk=0.038, width=0.265, base=0.72, tip=0.72, teeth=0.0, wave=0.18,
        fold=0.20, droop=0.30, veins=7, slant=1.0, relief=0.035, rugose=0.030, pale=0.36,
        gloss=0.24,
    ),
    flower=Flower(
        radius=(34, 50), petals=(5, 5), whorls=1, width=0.44, base=0.55, tip=0.90, notch=0.0,
        cup=0.25, ribs=0.05, colours=(PINK, (0.62, 0.32, 0.40), (0.66, 0.54, 0.56)),
        eye=(0.75, 0.62, 0.55), eye_radius=0.30, disc=(0.30, 0.32, 0.08), disc_radius=0.12,
        stalks=(1, 2), cluster=(1, 4), reach=0.22,
    ),
)  # fmt: skip

SPECIES = (ARABIDOPSIS, DAISY, PRIMROSE, TOBACCO)


def between(first: Leaf, second: Leaf, share: float) -> Leaf:
    """Blend two leaves, trait by trait; `share` is how much of `second`, 0..1."""
    traits = [(getattr(first, f.name), getattr(second, f.name)) for f in fields(Leaf)]
    return Leaf(*(a + (b - a) * share for a, b in traits))


def stray(leaf: Leaf, spread: float, rng: np.random.Generator) -> Leaf:
    """Scale every trait by a random factor of about 1 +- `spread`."""
    factors: NDArray[np.float64] = np.exp(spread * rng.standard_normal(len(fields(Leaf))))
    traits = [getattr(leaf, f.name) for f in fields(Leaf)]
    return Leaf(*(trait * float(factor) for trait, factor in zip(traits, factors, strict=True)))
