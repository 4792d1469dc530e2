"""The only way from a file or bytes to pixels.

Data sets, `infer.py`, the client and the server's decoder all come through here, so a model sees in
service what it saw in training. Pillow and NumPy only: the serving side has no torch.
"""

import hashlib
import io
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape, glob
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nano_cv.data import heads
from nano_cv.data.heads import ImageError as ImageError
from nano_cv.data.store import File, Member
from nano_cv.errors import listing

log = logging.getLogger(__name__)
_said: set[str] = set()
ENDINGS = {  # by format; not EPS or PDF, which are programs, and no icons, which are several
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "JPEG": (".jpeg", ".jpg", ".jpe", ".jfif", ".mpo"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "QOI": (".qoi",),
    "TGA": (".tga",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
FORMATS = tuple(ENDINGS)
EXTENSIONS = tuple(sorted(ending for some in ENDINGS.values() for ending in some))
NOT_READ = (
    *(".heic", ".heif", ".hif", ".jxl", ".psd", ".svg", ".pdf", ".eps", ".ico", ".exr", ".dcm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef", ".raw", ".srw"),
)  # of files that are named where a folder is opened
LOSSLESS = ("BMP", "DIB", "GIF", "PNG", "PPM", "QOI", "TGA", "TIFF")  # those that masks may have
MAX_BYTES = 512 * 1024 * 1024  # of a file
MAX_PIXELS = 128 * 1024 * 1024  # 400 MB once decoded; a decompression bomb beyond that
MAX_SIDE = 65_535  # pixels; what a JPEG can have
ORIENTATION = 0x0112  # of EXIF; from 5 on the picture lies on its side
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MIN_SIDE = 8  # pixels; below that it is a tracking pixel or a broken thumbnail, not a picture
DEPTHS = (8, 10, 12)  # bits that cameras use of 16
FITS = ("stretch", "letterbox")  # ways to make a picture square
GREY = 114  # of the margins of a letterbox
IGNORE = 255  # in masks: pixels of no known class
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit; MAX_PIXELS decides, and in its own words


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
        ImageError: missing, unreadable, truncated, animated, smaller than `MIN_SIDE`, or over one
            of the limits above and in `heads`; the message begins with the file's name.
    """
    if not isinstance(source, bytes):
        return decode(read(source), size, str(source), max_pixels)
    with _named(name):
        image, head = _open(io.BytesIO(source), max_pixels)
        if size:
            image.draft("RGB", (2 * size, 2 * size))
        return _to_rgb(_upright(image), head.bits, name)


def read(file: File) -> bytes:
    """The bytes of a picture file; raises `ImageError` where it is missing or not readable."""
    try:
        if not isinstance(file, Member):
            status = os.stat(file)
            if status.st_size > MAX_BYTES:
                raise ImageError(f"{file}: {status.st_size:,} bytes; at most {MAX_BYTES:,} allowed")
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                raise ImageError(f"{file}: not a file but a pipe or a device")
        content = file.read_bytes()
    except OSError as error:
        raise ImageError(f"{file}: cannot be read: {error.strerror}") from error
    if isinstance(file, Member) and hashlib.sha256(content).hexdigest() != file.sha256:
        raise ImageError(f"{file}: damaged: these are not the bytes that shard.py wrote")
    return content


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Whatever is wrong with a picture becomes an `ImageError` that begins with its name."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Image.UnidentifiedImageError:
        heic = "; save it as JPEG or PNG" if name.lower().endswith(NOT_READ) else ""
        raise ImageError(f"{name}: not a picture in a known format{heic}") from None
    except Exception as error:  # a decoder meets damage in as many ways as there are formats
        raise ImageError(f"{name}: damaged or cut short: {error}") from error


def _open(
    stream: BinaryIO, max_pixels: int, pixels: bool = True
) -> tuple[Image.Image, heads.Head]:
    """Pillow's picture, not yet decoded, after all limits were asked."""
    length = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if not length:
        raise ImageError("the file is empty (0 bytes)")
    if length > MAX_BYTES:
        raise ImageError(f"{length:,} bytes; at most {MAX_BYTES:,} are allowed")
    head = heads.read(stream, pixels)
    image = Image.open(head.stream, formats=FORMATS)
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{width}x{height} pixels; the shortest side allowed is {MIN_SIDE}")
    if max(width * height, head.tile) > max_pixels:
        raise ImageError(f"{width}x{height} pixels; at most {max_pixels:,} are allowed")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{width}x{height} pixels; the longest side allowed is {MAX_SIDE:,}")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError("an animation or a stack of pictures; save one of them alone")
    return image, head


def _orientation(image: Image.Image) -> int:
    """1 to 8, from EXIF or XMP; of TIFF 1, for Pillow turns that itself."""
    if image.format == "TIFF":
        return 1
    exif = image.info.get("exif")
    raw = image.info.get("Raw profile type exif")  # as ImageMagick writes it into a PNG
    try:
        exif = bytes.fromhex("".join(raw.split("\n")[3:])) if raw and not exif else exif
        found = heads.directory(io.BytesIO((exif or b"").removeprefix(b"Exif\0\0")))
    except (ValueError, ImageError):  # damaged: as if there were none
        found = {}
    if ORIENTATION not in found:
        text = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
        text = text if isinstance(text, bytes) else text.encode(errors="replace")
        stated = re.search(rb'tiff:Orientation(="|>)([0-9])', text)
        found[ORIENTATION] = int(stated[2]) if stated else 1
    return found[ORIENTATION]


def _upright(image: Image.Image) -> Image.Image:
    """Decoded, and turned as EXIF says."""
    image.load()
    turn = UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, bits: int, name: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError("floating-point pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey: `convert` would clip it at 255
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ImageError("32-bit pixels; save it with 8 or 16 bits")
        if not bits:  # a camera of 12 bits writes 0 to 4095 and most often does not say so
            most = int(levels.max())
            bits = next((depth for depth in DEPTHS if 0 < most < 1 << depth), 16)
            if bits < 16:
                say_once(
                    "%s: 16-bit grey with no level over %d is taken as %d bits, and so for all",
                    *(name, (1 << bits) - 1, bits),
                )
        levels = np.minimum(levels, (1 << bits) - 1) >> (bits - 8)
        image = Image.fromarray(levels.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image if image.mode == "RGB" else image.convert("RGB")


def say_once(what: str, *values: object) -> None:
    """Log what is assumed of a picture, for the first one in this process."""
    if what not in _said:
        _said.add(what)
        log.info(what, *values)


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
        ImageError: missing, not a picture, or over a limit.
    """
    if isinstance(file, Member):
        return file.width, file.height
    try:
        with open(file, "rb") as stream, _named(str(file)):
            image = _open(stream, MAX_PIXELS, pixels=False)[0]
            sideways = _orientation(image) >= 5
            return (image.height, image.width) if sideways else image.size
    except OSError as error:
        raise ImageError(f"{file}: cannot be read: {error.strerror}") from error


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
