"""Grow a plant on the soil: arrange its leaves, then its blossoms."""

from dataclasses import dataclass

import numpy as np

from tools.render_flowers.blossom import Head, paint_head, paint_stalk
from tools.render_flowers.leaf import Pose, paint_leaf
from tools.render_flowers.noise import Field
from tools.render_flowers.scene import Scene
from tools.render_flowers.species import (
    BLOSSOM_SHARE,
    COLOUR_SPREAD,
    DEFECT_SHARE,
    JUVENILE,
    SEEDLING_SHARE,
    SHAPE_SPREAD,
    Species,
    between,
    stray,
)


@dataclass(frozen=True)
class Rosette:
    """One plant; lengths are canvas pixels."""

    species: Species
    age: float  # 0 a seedling with its first leaves, 1 a plant that fills its pot
    scale: float  # how much closer than usual the camera is
    x: float
    y: float
    radius: float


def draw_age(rng: np.random.Generator) -> float:
    """Age of a plant, 0..1; some are seedlings."""
    seedling = rng.random() < SEEDLING_SHARE
    return float(rng.uniform(0.0, 0.15) if seedling else 0.25 + 0.75 * rng.random() ** 0.8)


def grow(
    scene: Scene, species: Species, age: float, scale: float, rng: np.random.Generator
) -> None:
    """Paint a whole plant into the middle of the canvas; `scale` enlarges it."""
    tall, wide = scene.height.shape
    x, y = (side * (0.5 + rng.normal(0, 0.015)) for side in (wide, tall))
    low, high = species.radius
    radius = scale * (low + (high - low) * age**0.9) * min(tall, wide) * np.exp(rng.normal(0, 0.1))
    plant = Rosette(species, age, scale, x, y, float(radius))
    _grow_leaves(scene, plant, rng)
    if age > 0.3 and rng.random() < BLOSSOM_SHARE / (1 - SEEDLING_SHARE):
        _grow_blossoms(scene, plant, rng)


def _middle(scene: Scene, plant: Rosette, reach: int) -> Field:
    """Heights of the scene around the plant's middle."""
    x, y = round(plant.x), round(plant.y)
    return scene.height[y - reach : y + reach, x - reach : x + reach]


def _grow_leaves(scene: Scene, plant: Rosette, rng: np.random.Generator) -> None:
    least, most = plant.species.number
    count = max(3, round(least + (most - least) * plant.age) + int(rng.integers(-1, 3)))
    own = stray(plant.species.leaf, SHAPE_SPREAD, rng)
    # The plant's own green: lighter or darker, yellower or bluer than its species.
    light, yellow, blue = rng.normal(0, COLOUR_SPREAD, 3)
    green = np.array(plant.species.green) * np.exp([light + 0.6 * yellow, light, light + blue])
    ground = float(np.median(_middle(scene, plant, 12)))
    azimuth, upright = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.3)
    sick = float(rng.random() < DEFECT_SHARE)
    for order in range(count):  # from the oldest, lowest leaf to the youngest
        youth = order / (count - 1) * min(1.0, count / 9)
        size = plant.radius * min(1.0, 0.62 + order * 0.09) * (1 - 0.80 * youth**1.6)
        azimuth += np.radians(plant.species.turn + rng.normal(0, 9))
        rise = upright * (0.32 + 0.6 * youth**1.5) + rng.normal(0, 0.05)
        character = min(1.0, 0.25 + 0.18 * order * (0.4 + plant.age))
        old = max(0.0, 1 - 2.5 * youth) * plant.age
        bright = rng.normal(-0.12, 0.09) + 0.35 * youth
        away = rng.uniform(0, 0.03) * plant.radius
        pose = Pose(
            x=plant.x + away * np.cos(azimuth),
            y=plant.y + away * np.sin(azimuth),
            ground=ground + 3 + 14 * youth,
            length=size * np.exp(rng.normal(0, 0.09)) / np.sqrt(1 + rise**2 / 2),
            azimuth=azimuth,
            rise=rise,
            bend=rng.normal(0, 0.07),
            twist=rng.normal(0, 0.22),
            colour=green * np.exp([bright + 0.18 * youth, bright, bright - 0.1 * youth]),
            wilt=max(0.0, rng.normal(0.1, 0.5)) * old * sick,
            spots=sick * rng.uniform(0, 1) * (rng.random() < 0.4),
            bites=int(rng.integers(1, 4)) if sick and rng.random() < 0.12 else 0,
        )
        leaf = stray(between(JUVENILE, own, character), 0.07, rng)
        paint_leaf(scene, leaf, pose, order + 1, rng)


def _grow_blossoms(scene: Scene, plant: Rosette, rng: np.random.Generator) -> None:
    flower = plant.species.flower
    colour = np.array(flower.colours[rng.integers(len(flower.colours))]) * rng.uniform(0.85, 1.05)
    size = rng.uniform(*flower.radius) * (0.6 + 0.4 * plant.scale)
    top = float(_middle(scene, plant, 30).max())
    heads = []
    for _ in range(rng.integers(flower.stalks[0], flower.stalks[1] + 1)):
        turn, reach = rng.uniform(0, 2 * np.pi), flower.reach * rng.uniform(0.25, 1.1)
        x = plant.x + plant.radius * reach * np.cos(turn)
        y = plant.y + plant.radius * reach * np.sin(turn)
        rise = rng.uniform(40, 110)
        paint_stalk(scene, (plant.x, plant.y), (x, y), rise, max(3.0, size * 0.075))
        count = int(rng.integers(flower.cluster[0], flower.cluster[1] + 1))
        for _ in range(count):
            turn, away = rng.uniform(0, 2 * np.pi), np.sqrt(count - 1) * rng.uniform(0.4, 1.1)
            head = Head(
                x=x + size * away * np.cos(turn),
                y=y + size * away * np.sin(turn),
                height=top + rise,
                radius=size * rng.uniform(0.85, 1.1),
                colour=colour,
                openness=1.0 if rng.random() < 0.85 else rng.uniform(0.1, 0.5),
            )
            heads.append(head)
    for head in sorted(heads, key=lambda head: head.height):
        paint_head(scene, flower, head, rng)
