"""Render one plant by its name, and write its files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.render_flowers.camera import draw_camera, photograph, sample
from tools.render_flowers.ground import make_ground
from tools.render_flowers.light import draw_light, shade
from tools.render_flowers.rosette import draw_age, grow
from tools.render_flowers.scene import BLOSSOM
from tools.render_flowers.species import SPECIES

SET_SEED = 2026
SMALLEST_LEAF = 12  # pixels; less of a leaf than that is no visible leaf
JPEG_QUALITY = 81
MASK_COLOURS = ((0, 0, 0), (40, 160, 60), (220, 40, 200))  # background, leaf, blossom

Plane = NDArray[np.uint8]


@dataclass(frozen=True)
class Plant:
    """One picture with its annotations, all uint8 with the same height and width."""

    name: str  # species/plantNNN
    image: Plane  # [H, W, 3], RGB
    label: Plane  # [H, W], 0 background, 1..n the visible leaves, without gaps
    centers: Plane  # [H, W], 255 at one pixel of each leaf, 0 elsewhere
    mask: Plane  # [H, W], 0 background, 1 leaf, 2 blossom with its stalk


def render(name: str) -> Plant:
    """Render the plant called `species/plantNNN`; the same name always gives the same pixels.

    Ground, light and camera draw from generators of their own and never learn the species.

    Raises:
        ValueError: not a name of this form, or an unknown species.
    """
    species_name, _, number = name.partition("/plant")
    index = [species.name for species in SPECIES].index(species_name)
    root = np.random.default_rng([SET_SEED, index, int(number)])
    for_ground, for_plant, for_light, for_camera = root.spawn(4)

    camera, light = draw_camera(for_camera), draw_light(for_light)
    age = draw_age(for_plant)
    scale = 1.0 + 0.8 * (1 - age) * for_camera.uniform(0, 1)  # one steps closer to a small plant
    pot = min(camera.canvas) * for_ground.uniform(0.34, 0.56) * scale**0.7
    scene = make_ground(camera.canvas, pot, for_ground)
    grow(scene, SPECIES[index], age, scale, for_plant)
    image = photograph(shade(scene, light, for_light), camera, for_camera)

    owner = sample(scene.owner, camera)
    label = _number_leaves(owner)
    mask = np.where(owner == BLOSSOM, 2, label > 0).astype(np.uint8)
    return Plant(name, image, label, _mark_leaves(label), mask)


def write(plant: Plant, folder: Path) -> None:
    """Write the four files of one plant below `folder`."""
    stem = folder / plant.name
    stem.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(plant.image).save(f"{stem}_rgb.jpg", quality=JPEG_QUALITY, optimize=True)
    _save_palette(plant.label, _label_colours(), f"{stem}_label.png")
    _save_palette(plant.mask, MASK_COLOURS, f"{stem}_mask.png")
    Image.fromarray(plant.centers).convert("1").save(f"{stem}_centers.png", optimize=True)


def _number_leaves(owner: NDArray[np.int64]) -> Plane:
    """Renumber what is visible of each leaf to 1..n; crumbs of leaves become background."""
    sizes = np.bincount(owner[owner > 0], minlength=1)
    numbers = np.zeros(sizes.size + 1, dtype=np.uint8)
    visible = np.flatnonzero(sizes >= SMALLEST_LEAF)
    numbers[visible] = np.arange(1, visible.size + 1)
    return np.asarray(numbers[np.maximum(owner, 0)])


def _mark_leaves(label: Plane) -> Plane:
    """Mark, for each leaf, its own visible pixel that lies nearest to the middle of them all."""
    centers = np.zeros_like(label)
    for leaf in range(1, int(label.max()) + 1):
        rows, columns = np.nonzero(label == leaf)
        away = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
        nearest = int(np.argmin(away))
        centers[rows[nearest], columns[nearest]] = 255
    return centers


def _label_colours() -> tuple[tuple[int, int, int], ...]:
    """Black, then 63 colours that are all different and bright."""
    steps = (255, 170, 85, 0)
    mixed = [(red, green, blue) for red in steps for green in steps for blue in steps]
    return ((0, 0, 0), *(mixed[(7 + 37 * order) % 63] for order in range(63)))


def _save_palette(plane: Plane, colours: tuple[tuple[int, int, int], ...], file: str) -> None:
    picture = Image.fromarray(plane).convert("P")
    picture.putpalette([part for colour in colours for part in colour])
    picture.save(file, optimize=True)
