"""Reads and resizes masks: a class index, or the number of an instance, at each pixel.

Shapes: H and W height and width of the picture in pixels, h and w of the network's input.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nano_cv.data import images
from nano_cv.data.images import IGNORE, MAX_PIXELS, ImageError
from nano_cv.data.store import File
from nano_cv.data.targets import INDICES, Meaning
from nano_cv.metadata import Size

LOSSLESS = ("BMP", "DIB", "GIF", "PNG", "PPM", "TGA", "TIFF")  # formats that masks may have


def load_mask(
    source: File | bytes, name: str = "mask", meaning: Meaning = INDICES
) -> NDArray[np.uint8]:
    """Load a mask: the class index of each upright pixel, uint8 `[H, W]`, `IGNORE` if unknown.

    A mask may have a palette (its indices count), black and white, grey of 8 or 16 bits, grey saved
    as colours, or colours that `meaning` knows. Transparent pixels must be 0, or black.

    Raises:
        ImageError: missing, damaged, a format that changes pixels, colours that have no class,
            indices over 255; the message begins with the file's name.
    """
    if not isinstance(source, bytes):
        return load_mask(images.read(source), str(source), meaning)
    with images.named(name):
        image, header = images.open_checked(io.BytesIO(source), MAX_PIXELS)
        if image.format not in LOSSLESS or image.info.get("compression") in ("jpeg", "webp"):
            raise ImageError(
                f"a mask in {image.format} or its compression has other numbers than were drawn; "
                "save it as PNG, from the original"
            )
        image = images.upright(image)
        mask = _of_colours(image, meaning) if meaning.colours else _of_numbers(image, header.depth)
        if mask.dtype != np.uint8 and not set(np.unique(mask)) - {0, 65535}:
            mask = mask >> 8  # 65535, white of 16 bits, becomes 255
        if meaning.nonzero:
            mask = mask > 0
        if mask.min() < 0 or mask.max() > 255:
            raise ImageError(f"class indices in a mask are 0 to 255; this mask has {mask.max()}")
        return meaning.table()[mask.astype(np.uint8)]


def palette_of(file: File) -> list[tuple[int, ...]]:
    """Return the colours in the palette of a mask, whose pixels are not decoded; empty if none."""
    content = images.read(file)
    with images.named(str(file)):
        palette = images.open_checked(io.BytesIO(content), MAX_PIXELS, pixels=False)[0].palette
        if not palette:
            return []
        mode, raw = palette.getdata()
        count = len(raw) // len(mode.partition(";")[0])
        colours = np.asarray(Image.frombytes("RGB", (count, 1), raw, "raw", mode))
        return list(map(tuple, colours[0].tolist()))


def _of_numbers(image: Image.Image, depth: int) -> NDArray[Any]:
    """Return the class index of each pixel of a mask without colours."""
    if image.mode == "P" or image.mode == "1" or image.mode == "L" or image.mode[0] == "I":
        return np.array(image, np.uint8 if image.mode == "1" else None)
    if image.mode not in ("LA", "RGB", "RGBA"):
        raise ImageError(f"a mask has one number per pixel, and this image is {image.mode}")
    if depth == 16:
        raise ImageError("16 bits in each of several channels; save it with one channel")
    bands = [np.asarray(band) for band in image.split()]
    if image.mode != "LA" and not all(np.array_equal(bands[0], band) for band in bands[1:3]):
        shown = ", ".join(f"{n}: {list(colour)}" for colour, n in _colours_in(image)[:8])
        raise ImageError(
            "a mask in colours, but no class has a colour; add them: "
            f"'data.colours={{CLASS: [R,G,B], ...}}'; this mask has, by pixels, {shown}"
        )
    if image.mode != "RGB" and bands[0][bands[-1] < 255].any():
        raise ImageError("a mask with numbers behind transparent pixels; save it without alpha")
    images.say_once("masks of equal channels are taken as grey: a class index at each pixel")
    return bands[0]


def _colours_in(image: Image.Image) -> list[tuple[tuple[int, ...], int]]:
    """Return each colour with its number of pixels, the most frequent first."""
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    unique, counts = np.unique(pixels, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(tuple(unique[index].tolist()), int(counts[index])) for index in order]


def _of_colours(image: Image.Image, meaning: Meaning) -> NDArray[Any]:
    """Return the class index of each pixel's colour."""
    colours = meaning.colours
    if image.has_transparency_data:
        seen = np.asarray(image.convert("RGBA"))
        if seen[seen[..., 3] < 255, :3].any():
            raise ImageError("a mask with colours behind transparent pixels; save it without alpha")
    pixels = np.asarray(image.convert("RGB")).astype(np.uint32)
    codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    mask = np.full(codes.shape, -1, np.int16)
    for index, (red, green, blue) in enumerate(colours):
        mask[codes == red << 16 | green << 8 | blue] = index
    if (mask < 0).any():
        unknown = [(colour, n) for colour, n in _colours_in(image) if colour not in colours]
        colour, count = unknown[0]
        near = min(
            colours, key=lambda known: sum((a - b) ** 2 for a, b in zip(known, colour, strict=True))
        )
        raise ImageError(
            f"{count} pixel{'s' * (count > 1)} of the colour {list(colour)}, which no class has; "
            f"nearest is {list(near)} of '{meaning.names[colours.index(near)]}'; "
            f"{len(unknown)} such colour{'s' * (len(unknown) > 1)}"
        )
    return mask


def resize_mask(mask: NDArray[np.uint8], size: Size, fit: str) -> NDArray[np.uint8]:
    """Resize a mask to the input's size by nearest pixels; margins are `IGNORE`."""
    return images.resize(Image.fromarray(mask), size, fit, Image.Resampling.NEAREST, IGNORE)


def restore_mask(mask: NDArray[np.uint8], width: int, height: int, fit: str) -> NDArray[np.uint8]:
    """Resize a mask from the input's size back to the image's: the opposite of `resize_mask`."""
    left, top, wide, high = images.place(width, height, mask.shape, fit)
    return enlarge_mask(mask[top : top + high, left : left + wide], width, height)


def enlarge_mask(mask: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize a mask uint8 `[h, w]` of class indices to `[height, width]`, with smooth outlines.

    Each class is resized as a grey picture, and each pixel gets the class that is strongest there.
    """
    if mask.shape == (height, width):
        return mask
    labels = np.unique(mask)
    resized, strongest = np.full((height, width), labels[0]), np.zeros((height, width), np.uint8)
    for label in labels:
        grey = Image.fromarray(np.where(mask == label, 255, 0).astype(np.uint8))
        strength = np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR))
        np.putmask(resized, strength > strongest, label)
        np.maximum(strongest, strength, out=strongest)
    return resized
