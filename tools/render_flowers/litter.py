"""What lies about on the soil: perlite, bark, fibres, pellets, stones, and sometimes a label."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.render_flowers.noise import Field, cells, grain, look_up, smooth
from tools.render_flowers.scene import GROUND, Scene
from tools.render_flowers.species import Colour


@dataclass(frozen=True)
class Litter:
    """A kind of small thing; lengths are canvas pixels."""

    colours: tuple[Colour, ...]
    often: float  # share of the pictures that have any
    most: int
    length: tuple[float, float]
    slim: float  # length over width
    ragged: float  # how far its outline strays from an ellipse
    dome: float  # height over width
    gloss: float = 0.0


KINDS = (
    Litter(((0.52, 0.51, 0.47), (0.44, 0.43, 0.40)), 0.6, 260, (4, 15), 1.3, 0.40, 0.6),  # perlite
    Litter(((0.11, 0.06, 0.032), (0.05, 0.03, 0.02)), 0.8, 60, (12, 42), 2.6, 0.35, 0.25),  # bark
    Litter(((0.22, 0.14, 0.07), (0.12, 0.075, 0.04)), 0.8, 70, (24, 100), 26.0, 0.1, 0.8),  # fibre
    Litter(((0.34, 0.24, 0.06), (0.10, 0.20, 0.22)), 0.25, 30, (10, 13), 1.0, 0.02, 0.9, 0.6),
    Litter(((0.20, 0.18, 0.15), (0.30, 0.27, 0.23)), 0.4, 25, (7, 20), 1.3, 0.15, 0.5),  # stone
)
LABEL_SHARE = 0.2  # share of the pots with a plant label
LABEL_COLOURS: tuple[Colour, ...] = ((0.66, 0.66, 0.63), (0.62, 0.48, 0.05), (0.14, 0.30, 0.50))


def scatter(scene: Scene, soil: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Strew random amounts of every kind over the pixels `[H, W]` that are soil."""
    rows, columns = np.nonzero(soil)
    for kind in KINDS:
        if rng.random() > kind.often:
            continue
        colour = np.array(kind.colours[rng.integers(len(kind.colours))])
        amount = rng.random() ** 1.5
        for _ in range(int(kind.most * amount)):
            place = rng.integers(rows.size)
            length = kind.length[0] + (kind.length[1] - kind.length[0]) * rng.random() ** 2
            _paint(scene, kind, float(columns[place]), float(rows[place]), length, colour, rng)
    if rng.random() < LABEL_SHARE:
        place = rng.integers(rows.size)
        _stick_label(scene, float(columns[place]), float(rows[place]), rng)


def _paint(
    scene: Scene,
    kind: Litter,
    x: float,
    y: float,
    length: float,
    colour: Field,
    rng: np.random.Generator,
) -> None:
    reach = np.array([-0.7, 0.7]) * length
    spot = scene.spot(x, y, reach, reach)
    turn, bow = rng.uniform(0, np.pi), rng.normal(0, 0.25)
    along = (spot.x * np.cos(turn) + spot.y * np.sin(turn)) / length * 2
    across = (spot.y * np.cos(turn) - spot.x * np.sin(turn)) / length * 2
    across = (across + bow * (along**2 - 0.5)) * kind.slim
    edge = look_up(grain(50, 3, 24), spot.x + 31 * x, spot.y + 17 * y)
    away = along**2 + across**2 + kind.ragged * edge
    inside = away < 1
    spot, away = spot.where(inside), away[inside]
    bump = look_up(grain(50, 3, 24), spot.x + 7 * x, spot.y + 57 * y)
    width = length / kind.slim
    height = np.sqrt(1 - np.maximum(away, 0)) * width * kind.dome + 0.8 * bump * kind.ragged
    height += scene.height[int(y), int(x)] + rng.uniform(-0.1, 0.3) * width
    tone = (1 + 0.15 * bump) * rng.uniform(0.6, 1.1)
    scene.paint(spot, height, colour * tone[:, None], kind.gloss, 0.0, GROUND)


def _stick_label(scene: Scene, x: float, y: float, rng: np.random.Generator) -> None:
    """A plastic strip that leans out of the soil, with a line of writing."""
    length, width, turn = rng.uniform(110, 220), rng.uniform(12, 20), rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(turn), np.sin(turn)
    box = np.array([-width, width])
    spot = scene.spot(
        x, y, np.array([0, length * cos])[:, None] + box, np.array([0, length * sin])[:, None] + box
    )
    along, across = spot.x * cos + spot.y * sin, spot.y * cos - spot.x * sin
    half = width * np.sqrt(np.clip((length - along) / width * 1.5, 0.0, 1.0))
    inside = (along > 0) & (np.abs(across) < half)
    spot, along, across = spot.where(inside), along[inside], across[inside]
    base, rise = scene.height[int(y), int(x)], rng.uniform(0.25, 0.7)
    stroke, _ = cells(12, 190)
    line = np.abs(across - 0.1 * width) < 0.28 * width
    ink = line * (along > 0.35 * length) * (along < 0.85 * length)
    ink = ink * smooth(look_up(stroke, along * 0.8, across * 0.35 + 40 * turn), 0.45, 0.3) * 0.8
    colour = np.array(LABEL_COLOURS[rng.integers(len(LABEL_COLOURS))]) * rng.uniform(0.7, 1.0)
    scene.paint(
        spot, base + rise * along + 0.01 * across**2, colour * (1 - ink)[:, None], 0.5, 0.15, GROUND
    )
