"""Photograph the lit canvas: lens, perspective, sensor, tone curve."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.render_flowers.noise import Field
from tools.render_flowers.species import BAD_SHOT_SHARE

SIZES = ((424, 400), (400, 424), (412, 412), (396, 448))  # rows, columns: four cameras
OVERSAMPLING = 1.75
MARGIN = 1.08  # the canvas is larger than the picture: room for perspective


@dataclass(frozen=True)
class Camera:
    """One shot; lengths are canvas pixels."""

    shape: tuple[int, int]
    keystone: Field  # [2]
    offset: Field  # [2]
    blur: float
    shake: float
    shake_angle: float
    exposure: float
    balance: Field  # [3]
    contrast: float
    saturation: float
    vignette: float
    noise: float

    @property
    def canvas(self) -> tuple[int, int]:
        """Rows and columns to paint: multiples of 16, which Fourier transforms like."""
        tall, wide = (16 * round(side * MARGIN * OVERSAMPLING / 16) for side in self.shape)
        return tall, wide


def draw_camera(rng: np.random.Generator) -> Camera:
    """A camera with its settings; independent of the plant."""
    bad, dim = rng.random() < BAD_SHOT_SHARE, rng.random() < 0.4
    return Camera(
        shape=SIZES[rng.integers(len(SIZES))],
        keystone=rng.normal(0, 0.02, 2),
        offset=rng.normal(0, 6, 2),
        blur=rng.uniform(0.8, 1.4) + (rng.uniform(1.0, 3.0) if bad and not dim else 0.0),
        shake=rng.uniform(4, 12) if bad and rng.random() < 0.5 else 0.0,
        shake_angle=rng.uniform(0, np.pi),
        exposure=rng.normal(0, 0.16) - (rng.uniform(0.6, 1.4) if bad and dim else 0.0),
        balance=np.exp(rng.normal(0, 0.05, 3)),
        contrast=rng.uniform(0.3, 0.8),
        saturation=rng.normal(0.90, 0.10),
        vignette=rng.uniform(0.02, 0.35),
        noise=rng.uniform(0.004, 0.014) * (2.0 if bad and dim else 1.0),
    )


def photograph(radiance: Field, camera: Camera, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn linear light `[H, W, 3]` of the canvas into the picture's uint8 `[h, w, 3]`."""
    x, y = _rays(camera)
    lens = _lens(radiance.shape[:2], camera)
    picture = np.empty((*camera.shape, 3))
    for band in range(3):
        blurred = np.fft.irfft2(np.fft.rfft2(radiance[..., band]) * lens, s=radiance.shape[:2])
        picture[..., band] = _bilinear(blurred, x, y)
    across = np.linspace(-1, 1, camera.shape[1])[None, :] ** 2
    away = across + np.linspace(-1, 1, camera.shape[0])[:, None] ** 2
    picture *= (1 - camera.vignette * away / 2)[..., None] * camera.balance
    picture = np.clip(picture, 0.0, None)  # blurring by Fourier transform can undershoot
    # Meters aim at a middle grey, and are fooled a little by bright or dark surroundings.
    metered = 0.15 / np.mean(np.sqrt(picture)) ** 2
    picture *= np.clip(metered, 0.1, 10.0) ** 0.6 * np.exp(camera.exposure)
    grey = rng.standard_normal(picture.shape) * camera.noise
    picture += grey * np.sqrt(picture + 0.01)
    luminance = picture.mean(2, keepdims=True)
    picture = np.clip(luminance + (picture - luminance) * camera.saturation, 0.0, None)
    picture = picture * (1 + picture / 5) / (1 + picture)  # highlights roll off
    encoded = np.clip(1.055 * np.clip(picture, 0.0, None) ** (1 / 2.4) - 0.055, 0.0, 1.0)
    curved = encoded * encoded * (3 - 2 * encoded)
    encoded += camera.contrast * (curved - encoded)
    return np.round(encoded * 255).astype(np.uint8)


def sample(plane: NDArray[np.int64], camera: Camera) -> NDArray[np.int64]:
    """Nearest values of a canvas plane at the picture's pixels: what each pixel shows."""
    x, y = _rays(camera)
    return plane[np.round(y).astype(np.int64), np.round(x).astype(np.int64)]


def _rays(camera: Camera) -> tuple[Field, Field]:
    """Canvas positions (x, y) that the picture's pixels look at."""
    tall, wide = camera.canvas
    x = np.linspace(-1, 1, camera.shape[1])[None, :]
    y = np.linspace(-1, 1, camera.shape[0])[:, None]
    depth = 1 + camera.keystone[0] * x + camera.keystone[1] * y
    right = wide / 2 + x / depth * wide / 2 / MARGIN + camera.offset[0]
    down = tall / 2 + y / depth * tall / 2 / MARGIN + camera.offset[1]
    return np.clip(right, 0, wide - 1.001), np.clip(down, 0, tall - 1.001)


def _lens(shape: tuple[int, ...], camera: Camera) -> Field:
    """Transfer function of blur and shake, for `rfft2`."""
    y, x = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    spread = np.exp(-2 * (np.pi * camera.blur) ** 2 * (x**2 + y**2))
    along = x * np.cos(camera.shake_angle) + y * np.sin(camera.shake_angle)
    return spread * np.sinc(camera.shake * along)


def _bilinear(plane: Field, x: Field, y: Field) -> Field:
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    x, y = x - left, y - top
    upper = plane[top, left] * (1 - x) + plane[top, left + 1] * x
    lower = plane[top + 1, left] * (1 - x) + plane[top + 1, left + 1] * x
    return upper * (1 - y) + lower * y
