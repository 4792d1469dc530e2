"""The only way from a file or bytes to pixels.

Data sets, `infer.py`, the client and the server's decoder all come through here, so a model sees in
service what it saw in training. Pillow and NumPy only: the serving side has no torch.
"""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nano_cv.errors import UserError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # not EPS: Ghostscript would run it
MAX_PIXELS = 128 * 1024 * 1024  # 400 MB once decoded; a decompression bomb beyond that
MIN_SIDE = 8  # pixels; below that it is a tracking pixel or a broken thumbnail, not a picture
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit; MAX_PIXELS decides, and in its own words


class ImageError(UserError):
    """A picture that cannot be used, and why."""


def decode(
    source: Path | bytes,
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
    if isinstance(source, Path):
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


def read(file: Path) -> bytes:
    """The bytes of a picture file; raises `ImageError` where it is missing or not readable."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ImageError(f"{file}: cannot be read: {error.strerror}") from error


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


def resize(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Stretch to `size` x `size` with an anti-aliasing bilinear filter: uint8 `[size, size, 3]`."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def load(
    source: Path | bytes, size: int, name: str = "picture", max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode and resize one picture: uint8 RGB `[size, size, 3]`; see `decode`."""
    return resize(decode(source, size, name, max_pixels), size)


def find(folder: Path) -> list[Path]:
    """All pictures below `folder`, by their endings, sorted; hidden ones are passed over."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.is_dir()
    )
