"""Light the finished height field: sun or window, sky, shadows, highlights, shine-through.

Shadows and ambient occlusion are the same thing here: how much of a set of light directions a
pixel sees. The horizon seen in one direction is a running maximum over the height field, found in
a logarithmic number of steps by doubling the distance.
"""

from dataclasses import dataclass

import numpy as np

from tools.render_flowers.noise import Field, grain, look_up, smooth
from tools.render_flowers.scene import Scene

SUN_SAMPLES = 12
SKY = tuple((np.radians(high), n) for high, n in ((18, 7), (42, 6), (68, 4)))
COARSE = 2  # shadows are found on every other pixel
DOUBLINGS = 7  # they reach COARSE * 2 ** DOUBLINGS pixels


@dataclass(frozen=True)
class Light:
    """One illumination; colours are linear light `[3]`."""

    azimuth: float
    elevation: float
    softness: float  # angular radius of the source, radians
    sun: Field
    sky: Field
    stripes: float  # shade of something outside the picture: glazing bars, a hand, 0..1


def draw_light(rng: np.random.Generator) -> Light:
    """A greenhouse in sun, an overcast day, a window sill or a lamp; independent of the plant."""
    sunny = rng.random() < 0.45
    warm, strength = rng.normal(0.0, 0.07), rng.uniform(0.5, 1.0)
    sun = np.array([1.0 + warm, 1.0, 1.0 - 1.4 * warm]) * (2.8 if sunny else 1.5) * strength
    blue = rng.normal(0.06, 0.06)
    sky = np.array([1.0 - blue, 1.0, 1.0 + blue]) * rng.uniform(0.4, 0.8)
    return Light(
        azimuth=rng.uniform(0, 2 * np.pi),
        elevation=np.radians(rng.uniform(30, 68)),
        softness=rng.uniform(0.02, 0.06) if sunny else rng.uniform(0.15, 0.5),
        sun=sun,
        sky=sky * (1.0 if sunny else 1.5),
        stripes=rng.uniform(0.3, 0.75) if rng.random() < 0.15 else 0.0,
    )


def shade(scene: Scene, light: Light, rng: np.random.Generator) -> Field:
    """Radiance towards the camera, float64 `[H, W, 3]` in linear light, not yet exposed."""
    slope_x, slope_y = _slope(scene.height, 1), _slope(scene.height, 0)
    length = np.sqrt(1 + slope_x**2 + slope_y**2)
    east, south, up = -slope_x / length, -slope_y / length, 1 / length

    flat = np.cos(light.elevation)
    sun = np.array([np.cos(light.azimuth) * flat, np.sin(light.azimuth) * flat])
    high = np.sin(light.elevation)
    facing = east * sun[0] + south * sun[1] + up * high
    sunlit = _sunlit(scene.height, light)
    if light.stripes:
        sunlit = sunlit * (1 - light.stripes * _stripes(sunlit.shape, rng))
    sky = _enlarge(_skylit(scene.height), scene.height.shape) * (0.4 + 0.6 * up)

    leafy = scene.clear > 0
    lit = np.clip(np.where(leafy, (facing + 0.15) / 1.15, facing), 0.0, None) * sunlit
    glow = scene.clear * np.clip(0.75 - 0.5 * facing, 0.0, 1.0) * sunlit
    half = np.sqrt(sun[0] ** 2 + sun[1] ** 2 + (1 + high) ** 2)
    mirror = np.clip((east * sun[0] + south * sun[1] + up * (1 + high)) / half, 0.0, 1.0)
    speck = np.clip(1 + 0.5 * look_up(grain(40, 2, 8), *_grid(scene.height.shape)), 0.0, 2.0)
    sheen = scene.gloss * speck * (0.14 * mirror**8 + 0.30 * mirror**40) * sunlit
    sheen_sky = scene.gloss * 0.06 * sky * (1 + 2 * (1 - up))

    radiance = np.empty_like(scene.albedo)
    for band in range(3):
        colour = scene.albedo[..., band]
        through = np.sqrt(colour) * colour * 2.0  # light that crossed the leaf is more saturated
        bounced = sky ** (1.35 - 0.7 * np.sqrt(colour))  # light between leaves takes their colour
        radiance[..., band] = light.sun[band] * (colour * lit + through * glow + sheen)
        radiance[..., band] += light.sky[band] * (colour * bounced + sheen_sky)
    return radiance


def _grid(shape: tuple[int, ...]) -> tuple[Field, Field]:
    return np.arange(shape[1])[None, :] * 1.0, np.arange(shape[0])[:, None] * 1.0


def _slope(height: Field, axis: int) -> Field:
    """Derivative; across a jump (the edge of a leaf) the flatter side's, so edges stay clean."""
    step = np.diff(height, axis=axis)
    first, last = np.take(step, [0], axis), np.take(step, [-1], axis)
    before = np.concatenate([first, step], axis)
    after = np.concatenate([step, last], axis)
    flatter = np.where(np.abs(before) < np.abs(after), before, after)
    return np.clip(np.where(np.abs(before - after) > 3.0, flatter, (before + after) / 2), -3, 3)


def _horizon(height: Field, x: float, y: float, rise: float) -> Field:
    """Height above which a pixel sees the light that comes from (`x`, `y`), climbing `rise`."""
    top = np.full_like(height, -1e9)
    source, target = _shifted(x, y)
    top[target] = height[source] - rise
    for doubling in range(DOUBLINGS):
        reach = 2**doubling
        source, target = _shifted(x * reach, y * reach)
        further = top[source] - rise * reach
        top[target] = np.maximum(top[target], further)
    return top


def _shifted(x: float, y: float) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices that pair every pixel (second) with the one (`x`, `y`) pixels away from it (first)."""

    def pair(step: int) -> tuple[slice, slice]:
        ahead, behind = max(step, 0), max(-step, 0)
        return slice(ahead, -behind or None), slice(behind, -ahead or None)

    (source_x, target_x), (source_y, target_y) = pair(round(x)), pair(round(y))
    return (source_y, source_x), (target_y, target_x)


def _sunlit(height: Field, light: Light) -> Field:
    """Share of the sun's disc or the window that each pixel sees, `[H, W]` in 0..1."""
    coarse, seen = height[::COARSE, ::COARSE], np.zeros_like(height)
    for sample in range(SUN_SAMPLES):  # a sunflower spiral fills a disc evenly
        away, turn = light.softness * np.sqrt((sample + 0.5) / SUN_SAMPLES), sample * 2.39996
        azimuth = light.azimuth + away * np.cos(turn) / np.cos(light.elevation)
        rise = np.tan(np.clip(light.elevation + away * np.sin(turn), 0.2, 1.5))
        top = _horizon(coarse, float(np.cos(azimuth)), float(np.sin(azimuth)), rise * COARSE)
        seen += np.clip(1.5 - 0.5 * (_enlarge(top, height.shape) - height), 0.0, 1.0)
    return seen / SUN_SAMPLES


def _skylit(height: Field) -> Field:
    """Share of the sky that each coarse pixel sees, `[H / COARSE, W / COARSE]` in 0..1."""
    coarse = height[::COARSE, ::COARSE]
    seen, total = np.zeros_like(coarse), 0.0
    for elevation, count in SKY:
        weight = float(np.sin(elevation) * np.cos(elevation)) / count
        for turn in range(count):
            azimuth = 2 * np.pi * turn / count + elevation
            x, y = float(np.cos(azimuth)), float(np.sin(azimuth))
            top = _horizon(coarse, x, y, float(np.tan(elevation)) * COARSE)
            seen += weight * np.clip(1.2 - 0.25 * (top - coarse), 0.0, 1.0)
            total += weight
    return seen / total


def _enlarge(coarse: Field, shape: tuple[int, ...]) -> Field:
    """Repeat coarse pixels until they fill `shape`."""
    return coarse.repeat(COARSE, 0).repeat(COARSE, 1)[: shape[0], : shape[1]]


def _stripes(shape: tuple[int, ...], rng: np.random.Generator) -> Field:
    """Shade of one or two bars across the picture, 0..1."""
    x, y = _grid(shape)
    turn, width, blur = rng.uniform(0, np.pi), rng.uniform(40, 140), rng.uniform(10, 50)
    across = (x - shape[1] / 2) * np.cos(turn) + (y - shape[0] / 2) * np.sin(turn)
    across = (across + rng.uniform(-300, 300)) % rng.uniform(500, 1100)
    return smooth(across, 0, blur) * (1 - smooth(across, width, width + blur))
