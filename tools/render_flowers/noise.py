"""Periodic noise tiles: made once per process, then cropped or looked up for every plant.

Filtering and cell distances over a megapixel are the slow part of a procedural texture. Because a
tile is periodic, any offset, mirror image or quarter turn of it is a fresh texture at no cost.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
SIDE = 1024  # pixels; larger than any canvas, so that no picture shows a tile twice


@cache
def grain(seed: int, shortest: float, longest: float, slope: float = 1.0) -> Field:
    """Gaussian noise of mean 0 and deviation 1, float64 `[SIDE, SIDE]`.

    Holds wavelengths from `shortest` to `longest` pixels; the larger `slope`, the more the long
    ones prevail.
    """
    spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((SIDE, SIDE)))
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :])
    frequency[0, 0] = 1.0
    band = np.exp(-((frequency * shortest) ** 2)) * (1 - np.exp(-((frequency * longest) ** 2)))
    tile = np.fft.irfft2(spectrum * band * frequency ** -(slope + 1), s=(SIDE, SIDE))
    tile -= tile.mean()
    return tile / tile.std()


@cache
def cells(seed: int, count: int) -> tuple[Field, Field]:
    """Rounded crumbs, `count` x `count`: domes and tones, both `[SIDE, SIDE]`, 0..1.

    A dome is 1 in the middle of a crumb and 0 between crumbs; a tone is one number per crumb.
    """
    rng = np.random.default_rng(seed)
    pitch = SIDE / count
    jitter = rng.uniform(0.0, 1.0, (2, count, count))
    tones, sizes = rng.uniform(0.0, 1.0, (count, count)), rng.uniform(0.6, 1.2, (count, count))
    bent = 0.16 * grain(seed, pitch / 4, pitch)  # crumbs are no circles
    rows = np.arange(SIDE)[:, None] / pitch + bent
    columns = np.arange(SIDE)[None, :] / pitch + np.roll(bent, SIDE // 2, 1)
    row, column = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    nearest, tone = np.full((SIDE, SIDE), np.inf), np.zeros((SIDE, SIDE))
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            cell = ((row + down) % count, (column + right) % count)
            away = (row + down + jitter[0][cell] - rows) ** 2
            away += (column + right + jitter[1][cell] - columns) ** 2
            away /= sizes[cell] ** 2
            closer = away < nearest
            nearest = np.where(closer, away, nearest)
            tone = np.where(closer, tones[cell], tone)
    return np.clip(1 - nearest * 1.6, 0.0, 1.0), tone


def crop(
    tiles: list[Field], shape: tuple[int, ...], rng: np.random.Generator, zoom: float = 1.0
) -> list[Field]:
    """Cut the same random piece, mirrored and turned at random, out of each tile."""
    rows, columns = (
        (rng.integers(SIDE) + rng.choice([-1, 1]) * np.arange(side) / zoom).astype(np.int64) % SIDE
        for side in shape
    )
    turn = rng.random() < 0.5
    return [(tile.T if turn else tile)[rows[:, None], columns] for tile in tiles]


def look_up(tile: Field, x: Field, y: Field) -> Field:
    """Nearest values of a tile at positions in pixels, which wrap around."""
    return tile[np.floor(y).astype(np.int64) % SIDE, np.floor(x).astype(np.int64) % SIDE]


def smooth(values: Field, low: float, high: float) -> Field:
    """Rise from 0 at `low` to 1 at `high` without corners."""
    part = np.clip((values - low) / (high - low), 0.0, 1.0)
    return part * part * (3 - 2 * part)


def mix(first: Field, second: Field, share: Field) -> Field:
    """Blend colours `[..., 3]`; `share` `[...]` is how much of `second`, 0..1."""
    return first + (second - first) * share[..., None]
