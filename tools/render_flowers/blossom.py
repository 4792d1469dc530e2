"""Paint flower heads and their stalks."""

from dataclasses import dataclass

import numpy as np

from tools.render_flowers.noise import Field, cells, grain, look_up, mix, smooth
from tools.render_flowers.scene import BLOSSOM, Scene, Spot
from tools.render_flowers.species import Flower

STALK = np.array([0.13, 0.20, 0.05])


@dataclass(frozen=True)
class Head:
    """One flower head; lengths are canvas pixels."""

    x: float
    y: float
    height: float
    radius: float
    colour: Field  # [3]
    openness: float  # 1 is open, 0 a bud


def paint_stalk(
    scene: Scene, start: tuple[float, float], end: tuple[float, float], rise: float, thick: float
) -> None:
    """Draw a round stalk between two points of the canvas, `rise` pixels higher at its end."""
    x, y = end[0] - start[0], end[1] - start[1]
    length = max(float(np.hypot(x, y)), 1.0)
    box = np.array([-thick, thick])
    spot = scene.spot(*start, np.array([0, x])[:, None] + box, np.array([0, y])[:, None] + box)
    along = (spot.x * x + spot.y * y) / length**2
    across = (spot.y * x - spot.x * y) / length - 0.08 * length * np.sin(np.pi * along)
    inside = (np.abs(across) < thick) & (along > 0) & (along < 1)
    spot, along, across = spot.where(inside), along[inside], across[inside]
    base = scene.height[int(start[1]), int(start[0])]
    height = base + rise * smooth(along, 0.0, 0.8) + np.sqrt(thick**2 - across**2)
    colour = STALK * (1 + 0.1 * look_up(grain(8, 3, 90, 0.6), spot.x, spot.y))[:, None]
    scene.paint(spot, height, colour, 0.25, 0.2, BLOSSOM)


def paint_head(scene: Scene, flower: Flower, head: Head, rng: np.random.Generator) -> None:
    """Paint one flower head, tilted at random: whorls of petals, then the disc in its middle."""
    reach = np.array([-1.15, 1.15]) * head.radius
    spot = scene.spot(head.x, head.y, reach, reach)
    lean, tilt = rng.uniform(0, 2 * np.pi), np.cos(rng.uniform(0, 0.75))
    flat_x = (spot.x * np.cos(lean) + spot.y * np.sin(lean)) / tilt
    flat_y = spot.y * np.cos(lean) - spot.x * np.sin(lean)
    plane = head.height + flat_x * np.sqrt(1 - tilt**2) * 0.7
    away, angle = np.hypot(flat_x, flat_y) / head.radius, np.arctan2(flat_y, flat_x)
    for whorl in range(flower.whorls):
        turned = (angle + whorl + np.pi) % (2 * np.pi) - np.pi
        _paint_whorl(scene, flower, head, (spot, plane, away, turned), whorl, rng)

    size = flower.disc_radius * (0.5 + 0.5 * head.openness)
    inside = away < size
    spot, plane, away = spot.where(inside), plane[inside], away[inside] / size
    floret, tone = cells(12, 190)
    bead, tone = look_up(floret, spot.x, spot.y), look_up(tone, spot.x, spot.y)
    dome = 0.10 + 0.16 * np.sqrt(1 - away**2) + 0.5 * (1 - head.openness)
    height = plane + head.radius * dome + 2.5 * bead
    shade = 0.62 + 0.4 * bead + 0.15 * tone - 0.15 * smooth(away, 0.5, 1.0)
    scene.paint(spot, height, np.array(flower.disc) * shade[:, None], 0.05, 0.2, BLOSSOM)


def _paint_whorl(
    scene: Scene,
    flower: Flower,
    head: Head,
    pixels: tuple[Spot, Field, Field, Field],
    whorl: int,
    rng: np.random.Generator,
) -> None:
    """Paint a ring of petals; `pixels`: place, height, distance in radii and angle -pi..pi."""
    spot, plane, away, angle = pixels
    count = int(rng.integers(flower.petals[0], flower.petals[1] + 1))
    sway, lift = rng.normal(0, 0.5, count) / count, rng.uniform(0, 0.1, count)
    size = np.clip(rng.normal(1 - 0.1 * whorl, 0.06, count), 0.7, 1.12)
    size *= 0.45 + 0.55 * head.openness
    peak = flower.base / (flower.base + flower.tip)
    widest = flower.width / (peak**flower.base * (1 - peak) ** flower.tip)
    for parity in (0, 1):  # neighbours overlap: paint every other petal first
        turn = angle / (2 * np.pi) * count
        nearest = 2 * np.round((turn - parity) / 2) + parity
        nearest = np.clip(nearest, -(count // 2), count // 2)
        petal = nearest.astype(np.int64) % count
        offset = (turn - nearest) * 2 * np.pi / count + sway[petal]
        along = away * np.cos(offset) / size[petal]
        across = away * np.sin(offset) / size[petal]
        part = np.clip(along, 0.0, 1.0)
        half = part**flower.base * (1 - part) ** flower.tip * widest
        dent = flower.notch * np.exp(-((across / 0.12) ** 2))
        inside = (np.abs(across) < half) & (along > 0.03) & (along < 0.995 - dent)
        part, side, place = part[inside], across[inside] / half[inside], spot.where(inside)

        steep = flower.cup + 1.5 * (1 - head.openness) + lift[petal][inside]
        height = steep * part - 0.16 * part**3 - 0.25 * flower.width * side**2
        height += 0.5 * flower.ribs * np.cos(side * 7)
        height += 0.03 * look_up(grain(7, 70, 400), place.x * 6, place.y * 6)
        height = plane[inside] + head.radius * height + 1.5 * (parity + 2 * whorl)
        tone = 1 + 0.05 * look_up(grain(8, 3, 90, 0.6), place.x, place.y)
        tone -= 3.2 * flower.ribs * np.cos(side * 9) * smooth(part, 0.2, 0.6)
        stain = 0.9 * (1 - smooth(part, flower.eye_radius * 0.75, flower.eye_radius * 1.15))
        colour = mix(head.colour * tone[:, None], np.array(flower.eye), stain)
        scene.paint(place, height, np.clip(colour, 0.01, 0.88), 0.08, 0.45, BLOSSOM)
