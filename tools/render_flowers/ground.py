"""The bench, the pot and the soil: drawn without knowing which species grows there."""

from dataclasses import dataclass

import numpy as np

from tools.render_flowers.litter import scatter
from tools.render_flowers.noise import SIDE, Field, cells, crop, grain, look_up, mix, smooth
from tools.render_flowers.scene import GROUND, Scene
from tools.render_flowers.species import Colour

BENCH_HEIGHT = -130.0  # canvas pixels below the rim of the pot


@dataclass(frozen=True)
class Bench:
    """A surface that pots stand on; lengths are canvas pixels."""

    colours: tuple[Colour, ...]
    stretch: int  # how much longer than wide its grain is
    rough: float  # contrast of the grain
    ridge: float  # distance between ridges or boards, 0 for none
    depth: float  # depth of the groove between them
    gloss: float


BENCHES = (
    Bench(((0.03, 0.07, 0.17), (0.03, 0.10, 0.06), (0.12, 0.13, 0.13)), 1, 0.20, 0, 0, 0.0),  # felt
    Bench(((0.012, 0.012, 0.013), (0.03, 0.03, 0.03)), 1, 0.05, 46, 9, 0.5),  # ribbed tray
    Bench(((0.30, 0.19, 0.10), (0.20, 0.14, 0.09), (0.36, 0.30, 0.23)), 18, 0.16, 150, 5, 0.1),
    Bench(((0.30, 0.29, 0.27), (0.20, 0.20, 0.19), (0.40, 0.37, 0.33)), 1, 0.16, 0, 0, 0.0),
    Bench(((0.62, 0.62, 0.60), (0.50, 0.53, 0.55)), 1, 0.025, 0, 0, 0.3),  # white plastic
)


@dataclass(frozen=True)
class Pot:
    """What a pot is made of; lengths are canvas pixels."""

    colours: tuple[Colour, ...]
    rim: tuple[float, float]  # thickness
    rough: float  # grain of the material
    gloss: float
    lime: float  # white stains


POTS = (
    Pot(((0.012, 0.012, 0.013), (0.02, 0.02, 0.022), (0.05, 0.05, 0.05)), (6, 12), 0.04, 0.6, 0.1),
    Pot(((0.36, 0.13, 0.06), (0.42, 0.19, 0.10), (0.30, 0.11, 0.06)), (16, 26), 0.16, 0.05, 0.8),
    Pot(((0.30, 0.10, 0.045), (0.03, 0.09, 0.05), (0.30, 0.30, 0.29)), (7, 13), 0.05, 0.4, 0.2),
)
SOILS: tuple[Colour, ...] = (
    (0.030, 0.020, 0.014),  # peat
    (0.050, 0.031, 0.018),
    (0.075, 0.047, 0.026),  # coir
    (0.060, 0.048, 0.036),
)


def _vary(colour: Colour, spread: float, rng: np.random.Generator) -> Field:
    common, each = rng.normal(0, spread), rng.normal(0, spread / 3, 3)
    return np.asarray(np.array(colour) * np.exp(common + each))


def make_ground(shape: tuple[int, int], radius: float, rng: np.random.Generator) -> Scene:
    """A canvas `[H, W]` with a pot of about `radius` pixels in its middle, filled with soil."""
    tall, wide = shape
    turn = rng.uniform(0, np.pi / 2)
    x = np.arange(wide)[None, :] - wide / 2 - rng.normal(0, 0.012 * wide)
    y = np.arange(tall)[:, None] - tall / 2 - rng.normal(0, 0.012 * tall)
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)

    bench = BENCHES[rng.integers(len(BENCHES))]
    height, albedo = _bench(bench, x, y, rng)
    gloss = np.full(shape, bench.gloss)

    pot = POTS[rng.integers(len(POTS))]
    square = pot.rim[1] < 15 and rng.random() < 0.5
    corner = radius * rng.uniform(0.12, 0.25) if square else radius
    if square and rng.random() < 0.6:  # a tray full of pots
        pitch = 2 * radius + rng.uniform(6, 40)
        x, y = (x + pitch / 2) % pitch - pitch / 2, (y + pitch / 2) % pitch - pitch / 2
    edge = _distance(x, y, radius, corner)
    rim = rng.uniform(*pot.rim)
    grit, clay = _clay(pot, shape, rng)
    depth = rng.uniform(10, 55)
    wall = depth * rng.uniform(0.15, 0.3)
    middle = np.abs(edge + rim / 2) / (rim / 2)
    lip = np.where(middle < 1, 0.5 * rim * np.sqrt(np.clip(1 - middle**2.5, 0, 1)), 0.0)
    inner = np.clip((-edge - rim) / wall, 0.0, 1.0)
    in_pot = edge < 0
    height = np.where(in_pot, lip - depth * inner + pot.rough * grit, height)
    albedo = np.where(in_pot[..., None], clay, albedo)
    gloss = np.where(in_pot, pot.gloss, gloss)

    relief, soil = _soil(shape, rng)
    slump = relief - depth + rng.uniform(2, 8) * smooth(edge, -radius * 0.5, -rim)
    in_soil = (edge < -rim) & ((slump > height) | (inner >= 1))
    scene = Scene(
        height=np.where(in_soil, slump, height),
        albedo=np.clip(np.where(in_soil[..., None], soil, albedo), 0.003, 0.85),
        gloss=np.where(in_soil, rng.uniform(0.0, 0.12), gloss),
        clear=np.zeros(shape),
        owner=np.full(shape, GROUND),
    )
    scatter(scene, in_soil, rng)
    return scene


def _distance(x: Field, y: Field, radius: float, corner: float) -> Field:
    """Distance from the pot's outer border, a square with round corners; negative inside."""
    out_x, out_y = np.abs(x) - (radius - corner), np.abs(y) - (radius - corner)
    beyond = np.hypot(np.maximum(out_x, 0), np.maximum(out_y, 0)) - corner
    return np.asarray(beyond + np.minimum(np.maximum(out_x, out_y), 0.0))


def _clay(pot: Pot, shape: tuple[int, int], rng: np.random.Generator) -> tuple[Field, Field]:
    """Grain `[H, W]` and colour `[H, W, 3]` of what the pot is made of."""
    grit, stain = crop([grain(20, 2, 14), grain(21, 30, 300)], shape, rng)
    colour = _vary(pot.colours[rng.integers(len(pot.colours))], 0.2, rng)
    tone = 1 + pot.rough * grit + 0.5 * pot.rough * stain
    lime = pot.lime * smooth(stain + 0.4 * grit, 0.9, 2.4) * rng.uniform(0, 1)
    return grit, mix(colour * tone[..., None], np.array([0.5, 0.47, 0.42]), lime)


def _bench(bench: Bench, x: Field, y: Field, rng: np.random.Generator) -> tuple[Field, Field]:
    """Height `[H, W]` and colour `[H, W, 3]` of the bench; `x` runs along its boards."""
    tile = grain(22, 3, 14, 0.5) if bench.stretch > 1 else grain(24, 2, 9, 0.3)
    shift = rng.uniform(0, SIDE, 2)
    fine = look_up(tile, x / bench.stretch + shift[0], y + shift[1])
    broad = look_up(grain(23, 60, 500), x + shift[1], y + shift[0])
    tone = 1 + bench.rough * fine + 0.06 * broad
    height = BENCH_HEIGHT + 4 * bench.rough * fine
    if bench.ridge:
        board = np.abs(y / bench.ridge % 1.0 - 0.5) * 2
        groove = smooth(board, 1 - 12 / bench.ridge, 1.0)
        height = height - bench.depth * groove
        tone = tone * (1 - 0.5 * groove) * (1 + 0.1 * np.sin(np.floor(y / bench.ridge) * 2.4))
    colour = _vary(bench.colours[rng.integers(len(bench.colours))], 0.25, rng)
    return height, colour * tone[..., None]


def _soil(shape: tuple[int, int], rng: np.random.Generator) -> tuple[Field, Field]:
    """Height `[H, W]` around 0 and colour `[H, W, 3]` of crumbs of three sizes, dust and moss."""
    zoom = rng.uniform(0.75, 1.25)
    lump, lump_tone = crop([*cells(30, 26)], shape, rng, zoom)
    crumb, crumb_tone = crop([*cells(31, 62)], shape, rng, zoom)
    bit, bit_tone = crop([*cells(32, 130)], shape, rng, zoom)
    dust, patch = crop([grain(33, 2, 10, 0.5), grain(34, 60, 500)], shape, rng)
    lump = lump * (lump_tone < rng.uniform(0.1, 0.9))
    crumb = crumb * (crumb_tone > rng.uniform(0.0, 0.5))
    height = 15 * lump + 9 * crumb * (0.4 + crumb_tone) + 4 * bit + 4 * patch + 0.7 * dust
    # Light hardly reaches between the crumbs: finer shade than the shadow pass can resolve.
    tone = (0.25 + 0.40 * crumb + 0.35 * bit + 0.25 * lump) * (
        0.5 + 0.5 * crumb_tone + 0.6 * bit_tone
    )
    tone *= 1 + 0.14 * dust + 0.14 * patch
    colour = _vary(SOILS[rng.integers(len(SOILS))], 0.25, rng) * tone[..., None]
    reddish = smooth(bit_tone, 0.84, 0.90) * (bit > 0.15) * rng.uniform(0, 0.5)
    colour = mix(colour, np.array([0.12, 0.066, 0.034]), reddish)
    moss = rng.uniform(0, 0.7) * smooth(patch, rng.uniform(0.6, 2.8), 3.2)
    return height, mix(colour, np.array([0.05, 0.085, 0.02]), moss * (0.5 + 0.5 * crumb))
