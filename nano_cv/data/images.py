"""The only way from a file or bytes to pixels.

Data sets, `infer.py`, the client and the server's decoder all come through here, so a model sees in
service what it saw in training. Pillow and NumPy only: the serving side has no torch.
"""

import hashlib
import io
import os
from glob import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nano_cv.data.store import File, Member
from nano_cv.errors import UserError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # not EPS: Ghostscript would run it
MAX_PIXELS = 128 * 1024 * 1024  # 400 MB once decoded; a decompression bomb beyond that
ORIENTATION = 0x0112  # of EXIF; from 5 on the picture lies on its side
MIN_SIDE = 8  # pixels; below that it is a tracking pixel or a broken thumbnail, not a picture
FITS = ("stretch", "letterbox")  # ways to make a picture square
GREY = 114  # of the margins of a letterbox
IGNORE = 255  # in masks: pixels of no known class
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit; MAX_PIXELS decides, and in its own words


class ImageError(UserError):
    """A picture that cannot be used, and why."""


def decode(
    source: File | bytes,
    size: int | None = None,
    name: str = "picture",
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode one picture to upright 8-bit RGB.

    EXIF orientation is applied, 16-bit grey is scaled to 8 bit, CMYK and palettes are converted,
    transparency is laid over white. With `size`, a JPEG may be decoded at a reduced scale that is
    still at least twice `size`, which makes large photographs several times quicker. `name` is
    what messages call a picture that comes as bytes.

    Raises:
        ImageError: missing, unreadable, truncated, animated, smaller than `MIN_SIDE` or larger
            than `max_pixels`; the message begins with the file's name.
    """
    if not isinstance(source, bytes):
        return decode(read(source), size, str(source), max_pixels)
    if not source:
        raise ImageError(f"{name}: the file is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(source), formats=FORMATS)
        _check(image, max_pixels)
        if size:
            image.draft("RGB", (2 * size, 2 * size))
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name}: not a picture in a known format") from None
    except Exception as error:  # a decoder meets damage in as many ways as there are formats
        raise ImageError(f"{name}: damaged or cut short: {error}") from error


def read(file: File) -> bytes:
    """The bytes of a picture file; raises `ImageError` where it is missing or not readable."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ImageError(f"{file}: cannot be read: {error.strerror}") from error
    if isinstance(file, Member) and hashlib.sha256(content).hexdigest() != file.sha256:
        raise ImageError(f"{file}: damaged: these are not the bytes that shard.py wrote")
    return content


def _check(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    frames = getattr(image, "n_frames", 1)
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{width}x{height} pixels; the shortest side allowed is {MIN_SIDE}")
    if width * height > max_pixels:
        raise ImageError(f"{width}x{height} pixels; at most {max_pixels:,} are allowed")
    if frames > 1 and image.format != "MPO":  # MPO: a phone's JPEG with a preview behind it
        raise ImageError(f"an animation or a stack of {frames} frames; save one of them alone")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ImageError("floating-point pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey: `convert` would clip it at 255
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ImageError("32-bit pixels; save it with 8 or 16 bits")
        image = Image.fromarray((levels >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


class Place(NamedTuple):
    """Where in the square a picture lies, in pixels."""

    left: int
    top: int
    width: int
    height: int


def place(width: int, height: int, size: int, fit: str) -> Place:
    """Where a picture of `width` x `height` lies in the square of `size`.

    `stretch` fills the square; `letterbox` keeps the shape and centres the picture.
    """
    if fit == "stretch":
        return Place(0, 0, size, size)
    longest = max(width, height)
    wide, high = max(1, round(width * size / longest)), max(1, round(height * size / longest))
    return Place((size - wide) // 2, (size - high) // 2, wide, high)


def resize(image: Image.Image, size: int, fit: str = "stretch") -> NDArray[np.uint8]:
    """A square of uint8 `[size, size, 3]`, with an anti-aliasing bilinear filter; see `place`."""
    left, top, width, height = place(*image.size, size, fit)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    if (width, height) == (size, size):
        return np.asarray(resized)
    square = np.full((size, size, 3), GREY, np.uint8)
    square[top : top + height, left : left + width] = resized
    return square


def load(
    source: File | bytes,
    size: int,
    name: str = "picture",
    max_pixels: int = MAX_PIXELS,
    fit: str = "stretch",
) -> NDArray[np.uint8]:
    """Decode and resize one picture: uint8 RGB `[size, size, 3]`; see `decode` and `place`."""
    return resize(decode(source, size, name, max_pixels), size, fit)


def dimensions(file: File) -> tuple[int, int]:
    """Width and height of the upright picture, from the file's head alone.

    Raises:
        ImageError: missing, or not a picture.
    """
    if isinstance(file, Member):
        return file.width, file.height
    try:
        with Image.open(file, formats=FORMATS) as image:
            # Pillow turns the size of a TIFF itself.
            sideways = image.format != "TIFF" and 5 <= image.getexif().get(ORIENTATION, 1) <= 8
            return (image.height, image.width) if sideways else image.size
    except Image.UnidentifiedImageError:
        raise ImageError(f"{file}: not a picture in a known format") from None
    except OSError as error:
        raise ImageError(f"{file}: not a picture that can be read: {error}") from error


def load_mask(source: File | bytes, name: str = "mask") -> NDArray[np.uint8]:
    """The class index of each pixel, uint8 `[H, W]`, from a palette or grey picture.

    Raises:
        ImageError: missing, damaged, or a picture of colours.
    """
    if not isinstance(source, bytes):
        return load_mask(read(source), str(source))
    try:
        image = Image.open(io.BytesIO(source), formats=FORMATS)
        if image.mode not in ("P", "L", "1"):
            raise ImageError(f"{name}: a mask has one number a pixel, and this is {image.mode}")
        return np.array(image).astype(np.uint8)
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name}: not a picture in a known format") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{name}: not a mask that can be read: {error}") from error


def resize_mask(mask: NDArray[np.uint8], size: int, fit: str) -> NDArray[np.uint8]:
    """The mask `[H, W]` in the square `[size, size]`, by nearest pixels; margins are `IGNORE`."""
    left, top, width, height = place(mask.shape[1], mask.shape[0], size, fit)
    square = np.full((size, size), IGNORE, np.uint8)
    nearest = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    square[top : top + height, left : left + width] = nearest
    return square


def restore_mask(mask: NDArray[np.uint8], width: int, height: int, fit: str) -> NDArray[np.uint8]:
    """Back from the square to the size of the picture: the opposite of `resize_mask`."""
    left, top, wide, high = place(width, height, len(mask), fit)
    inside = Image.fromarray(mask[top : top + high, left : left + wide])
    return np.asarray(inside.resize((width, height), Image.Resampling.NEAREST))


def find(folder: Path, endings: tuple[str, ...] = EXTENSIONS) -> list[Path]:
    """All pictures below `folder`, by their endings, sorted; links to folders are followed.

    Hidden files and folders are passed over.

    Raises:
        ImageError: a name that is not UTF-8, and so fits into no table.
    """
    found = sorted(
        path
        for path in (folder / name for name in glob("**/*", root_dir=folder, recursive=True))
        if path.suffix.lower() in endings and not path.is_dir()
    )
    for path in found:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise ImageError(f"{os.fsencode(path)!r}: a name that is not UTF-8") from None
    return found
