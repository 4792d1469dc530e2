"""Paint one leaf: outline, relief with veins, colour, damage."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tools.render_flowers.noise import SIDE, Field, cells, grain, look_up, mix, smooth
from tools.render_flowers.scene import Scene, Spot
from tools.render_flowers.species import Leaf

VEIN: Field = np.array([0.30, 0.38, 0.16])
YELLOW: Field = np.array([0.42, 0.33, 0.05])
DRY: Field = np.array([0.26, 0.14, 0.06])
BROWN: Field = np.array([0.13, 0.07, 0.03])


@dataclass(frozen=True)
class Pose:
    """Where and how one leaf grows; lengths are canvas pixels."""

    x: float
    y: float
    ground: float  # height of its base
    length: float
    azimuth: float  # radians
    rise: float  # slope at its base
    bend: float  # sideways, share of the length
    twist: float
    colour: Field  # [3]
    wilt: float  # yellowing from the tip, 0..1
    spots: float  # 0..1
    bites: int  # made by snails


class Blade(NamedTuple):
    """The pixels of a leaf in the leaf's own coordinates, each `[N]`."""

    along: Field  # 0 at the base, 1 at the tip
    across: Field  # pixels from the midrib
    side: Field  # -1 and 1 at the margins, 0 on the midrib
    flat: Field  # 0 on the stalk, 1 on the blade
    rib: Field  # strength of the midrib, 0..1
    net: Field  # strength of the side veins, 0..1
    puff: Field  # blisters, about 0..1
    u: Field  # where to look up noise
    v: Field


def paint_leaf(scene: Scene, leaf: Leaf, pose: Pose, owner: int, rng: np.random.Generator) -> None:
    """Lay one leaf over whatever is there; it rises as far as it must to clear what is below."""
    spot, along, across, half = _cut_out(scene, leaf, pose, rng)
    if not along.size:
        return
    blade = _texture(leaf, pose, along, across, half, rng)
    height = pose.ground + _relief(leaf, pose, blade, rng)
    below = scene.height[spot.rows, spot.columns]
    short = np.max((below + 3 - height) * smooth(along, 0.1, 0.5), initial=0.0)
    height += short * smooth(along, 0.0, 0.6)
    colour = np.clip(_colour(leaf, pose, blade), 0.004, 0.9)
    scene.paint(spot, height, colour, leaf.gloss, 0.35, owner)


def _half_width(leaf: Leaf, along: Field, rng: np.random.Generator) -> Field:
    """Distance from midrib to margin on one side, a share of the length, toothed and uneven."""
    inner = np.clip((along - leaf.petiole) / (1 - leaf.petiole), 0.0, 1.0)
    peak = leaf.base / (leaf.base + leaf.tip)
    width = inner**leaf.base * (1 - inner) ** leaf.tip
    width *= leaf.width / (peak**leaf.base * (1 - peak) ** leaf.tip)
    teeth = leaf.veins * 1.8 * (inner + 0.03 * np.sin(9 * inner + rng.uniform(0, 6)))
    saw = 1 - np.abs(2 * (teeth % 1.0) - 1.3) / 1.3
    width *= 1 + leaf.teeth * (saw - 0.5) * smooth(inner, 0.15, 0.5)
    for bumps in (3.1, 6.2, 12.4):
        width *= 1 + rng.normal(0, 0.035) * np.sin(bumps * inner + rng.uniform(0, 6))
    stalk = leaf.stalk * (1.25 - 0.5 * along) * np.sqrt(np.clip((1 - along) * 12, 0.0, 1.0))
    return np.maximum(width, stalk)


def _cut_out(
    scene: Scene, leaf: Leaf, pose: Pose, rng: np.random.Generator
) -> tuple[Spot, Field, Field, Field]:
    """The pixels that the leaf covers, with their `along`, `across` and the half-width there."""
    cos, sin = np.cos(pose.azimuth), np.sin(pose.azimuth)
    line, edges = np.linspace(0, 1, 9)[:, None], leaf.width * 1.4 * np.array([-1.0, 1.0])
    reach_x = (line * cos - (pose.bend * line**2 + edges) * sin) * pose.length
    reach_y = (line * sin + (pose.bend * line**2 + edges) * cos) * pose.length
    spot = scene.spot(pose.x, pose.y, reach_x, reach_y)
    along = (spot.x * cos + spot.y * sin) / pose.length
    across = spot.y * cos - spot.x * sin - pose.length * pose.bend * along**2
    steps = np.linspace(0.0, 1.0, 400)
    left, right = (np.interp(along, steps, _half_width(leaf, steps, rng)) for _ in range(2))
    half = pose.length * np.where(across < 0, left, right)
    inside = (np.abs(across) < half) & (along > 0) & (along < 1)
    for _ in range(pose.bites):
        bite, side = (
            rng.uniform(0.5, 0.95),
            rng.choice([-1, 1]) * rng.uniform(0.4, 1.1) * leaf.width,
        )
        away = np.hypot(along - bite, across / pose.length - side)
        edge = 1 + 0.12 * look_up(grain(5, 6, 60), spot.x + 99 * bite, spot.y)
        inside &= away > rng.uniform(0.03, 0.09) * edge
    return spot.where(inside), along[inside], across[inside], half[inside]


def _texture(
    leaf: Leaf, pose: Pose, along: Field, across: Field, half: Field, rng: np.random.Generator
) -> Blade:
    side = across / np.maximum(half, 1.0)
    flat = smooth(along, leaf.petiole * 0.8, leaf.petiole + 0.25)
    shift = rng.uniform(0, SIDE, 2)
    u, v = along * pose.length + shift[0], across + shift[1]
    fine = 220 / (pose.length + 60)  # small leaves have a finer net
    puff = np.sqrt(look_up(cells(11, 64)[0], u * fine, v * fine))
    puff += 0.2 * look_up(grain(6, 8, 60), u, v)

    thick = (0.8 + 0.32 * leaf.stalk * pose.length) * (1.15 - 0.85 * along)
    inner = np.clip((along - leaf.petiole) / (1 - leaf.petiole), 0.0, 1.0)
    lean = leaf.slant * leaf.width * 2.2 * np.abs(side) ** 1.25
    order = leaf.veins * (inner - lean) + np.where(across < 0, 0.5, 0.0)  # whole on each side vein
    away = np.abs(order - np.round(order)) * 0.8 * pose.length * (1 - leaf.petiole) / leaf.veins
    net = np.exp(-((away / (0.8 + 0.25 * thick)) ** 2))
    net *= (1 - np.abs(side) ** 3) * flat * smooth(inner, 0.02, 0.12)
    return Blade(along, across, side, flat, np.exp(-((across / thick) ** 2)), net, puff, u, v)


def _relief(leaf: Leaf, pose: Pose, blade: Blade, rng: np.random.Generator) -> Field:
    along, wide = blade.along, leaf.width * pose.length
    height = pose.length * (pose.rise * along - leaf.droop * along**2.2)
    height += pose.twist * blade.across * along
    wave = np.sin(along * rng.uniform(9, 16) + 2 * np.sign(blade.across) + rng.uniform(0, 6))
    bulge = 0.13 * look_up(grain(7, 70, 400), blade.u, blade.v) + leaf.wave * blade.side**2 * wave
    bulge += leaf.rugose * blade.puff * (1 - blade.net) * (1 - blade.rib)
    groove = leaf.relief * (blade.rib + 0.7 * blade.net)
    fold = leaf.fold * np.abs(blade.side) ** 1.5
    return np.asarray(height + wide * (bulge * blade.flat + fold - groove))


def _colour(leaf: Leaf, pose: Pose, blade: Blade) -> Field:
    along, u, v = blade.along, blade.u, blade.v
    tone = 1 + 0.07 * look_up(grain(8, 3, 90, 0.6), u, v) + 0.12 * (along - 0.5)
    tone += 1.2 * leaf.rugose * (blade.puff - 0.5)
    pale = leaf.pale * (1.3 * blade.rib + 0.7 * blade.net) + 0.22 * (1 - blade.flat)
    vein = VEIN * (0.6 + 2.0 * pose.colour[1])
    colour = mix(pose.colour * tone[:, None], vein, np.clip(pale, 0.0, 0.75))
    if pose.wilt > 0:  # from the tip and the margins inwards; veins stay green longest
        rot = 0.9 * along + 0.35 * np.abs(blade.side) + 0.3 * look_up(grain(9, 12, 200), u, v)
        rot -= 0.35 * np.maximum(blade.rib, 0.6 * blade.net)
        start = 1.35 - 1.5 * pose.wilt
        colour = mix(colour, YELLOW, 0.9 * smooth(rot, start, start + 0.55))
        colour = mix(colour, DRY, smooth(rot, 2.0 - pose.wilt, 2.2 - pose.wilt))
    if pose.spots > 0:
        sick = look_up(grain(10, 9, 60), u, v) - 3.1 + 1.1 * pose.spots
        colour = mix(colour, YELLOW, 0.7 * smooth(sick, -0.5, 0.1))
        colour = mix(colour, BROWN, smooth(sick, -0.05, 0.25))
    return colour
