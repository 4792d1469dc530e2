"""Decodes images; the only way in this package from a file or bytes to pixels.

Data sets, `infer.py`, the client and the server's decoder all use this module, so a model sees the
same pixels in service as in training; `masks.py` reads masks with it. Pillow and NumPy only: the
serving side has no torch.
"""

import hashlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nano_cv.data import headers, store
from nano_cv.data.headers import ImageError as ImageError
from nano_cv.data.store import File, Lazy, Member
from nano_cv.errors import UserError, listing
from nano_cv.metadata import Size, height_width

log = logging.getLogger(__name__)
HEIC = (".heic", ".heif", ".hif")  # photographs of iPhones
# By format; no EPS or PDF, which are programs; no icons, which hold several images; no JPEG 2000,
# whose decoder takes gigabytes for some files of 200 bytes, and stops all other threads.
ENDINGS = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "JPEG": (".jpeg", ".jpg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TGA": (".tga",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
if find_spec("pi_heif"):  # of the extra `heic`
    import pi_heif

    pi_heif.register_heif_opener()
    ENDINGS["HEIF"] = HEIC
FORMATS = tuple(ENDINGS)
EXTENSIONS = tuple(sorted(ending for endings in ENDINGS.values() for ending in endings))
NOT_READ = (
    *(() if "HEIF" in ENDINGS else HEIC),
    *(".jxl", ".psd", ".svg", ".pdf", ".eps", ".ico", ".exr", ".dcm", ".qoi"),
    *(".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw"),
)  # endings of files that a warning names where a folder is opened
ANY_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}$")  # not those of `a.jpg.1` and `a.jpg?w=9`
MAX_BYTES = 512 * 1024 * 1024  # of a file
MAX_PIXELS = 128 * 1024 * 1024  # 400 MB once decoded; larger images count as decompression bombs
MEMORY_FACTORS = {"AVIF": 2, "HEIF": 2}  # of decoding, relative to other formats
SCANS = 16  # of a JPEG with MAX_PIXELS; a smaller JPEG may have more, in proportion
MAX_SIDE = 65_535  # pixels; the longest side that JPEG allows
ORIENTATION = 0x0112  # tag of EXIF; with values from 5 on the image lies on its side
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MIN_SIDE = 8  # pixels; smaller files are tracking pixels or broken thumbnails
CAMERA_BITS = 12  # bits that most cameras use of 16
DARK = 16  # level of 0 to 255; an image without higher ones looks black
GREY = 114  # level of the margins of a letterbox
IGNORE = 255  # value in masks of pixels of no known class
Image.MAX_IMAGE_PIXELS = None  # switches off Pillow's own limit, in favour of MAX_PIXELS


def decode(
    source: File | bytes,
    size: Size | None = None,
    name: str = "picture",
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode an image to upright 8-bit RGB.

    EXIF orientation is applied, 16-bit grey is scaled to 8 bit, CMYK and palettes are converted,
    transparency is laid over white. With `size`, a JPEG may be decoded at a reduced scale that is
    still at least twice `size`, which makes large photographs several times quicker. `name` stands
    in messages for an image that is given as bytes.

    Raises:
        ImageError: missing, unreadable, truncated, animated, smaller than `MIN_SIDE`, or over a
            limit above or in `headers`; the message begins with the file's name.
    """
    if not isinstance(source, bytes):
        return decode(read(source), size, str(source), max_pixels)
    with named(name):
        image, header = open_checked(io.BytesIO(source), max_pixels)
        if size:
            height, width = height_width(size)
            image.draft("RGB", (2 * width, 2 * height))
        return _to_rgb(upright(image), header)


def read(file: File) -> bytes:
    """Read the bytes of an image file; raises `ImageError` if they cannot be had."""
    with named(str(file)):
        _check(file)
        content = file.read_bytes()
        if isinstance(file, Member) and hashlib.sha256(content).hexdigest() != file.sha256:
            raise ImageError("damaged: these are not the bytes that shard.py wrote")
    return content


def _check(file: File) -> None:
    """Refuse files that are too large, and pipes and devices, whose reading may wait for ever."""
    length = store.size(file)
    if isinstance(file, Path) and not (file.is_file() or file.is_dir()):
        raise ImageError("not a file but a pipe or a device")
    _check_length(length)


def _check_length(length: int) -> None:
    if length > MAX_BYTES:
        raise ImageError(f"{length:,} bytes; at most {MAX_BYTES:,} are allowed")


@contextmanager
def named(name: str) -> Iterator[None]:
    """Turn every error of reading or decoding into an `ImageError` that begins with the name."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Image.UnidentifiedImageError:
        advice = "save it as JPEG or PNG"
        if name.lower().endswith(HEIC) and "HEIF" not in ENDINGS:
            advice += ", or type: poetry install --extras heic"
        raise ImageError(f"{name}: not a picture in a known format; {advice}") from None
    except UserError:  # of a store
        raise
    except Exception as error:  # a decoder meets damage in as many ways as there are formats
        why = getattr(error, "strerror", None)  # only an error of the disk has one
        why = f"cannot be read: {why}" if why else f"damaged or cut short: {error}"
        raise ImageError(f"{name}: {why}") from error


def open_checked(
    stream: BinaryIO, max_pixels: int, pixels: bool = True
) -> tuple[Image.Image, headers.Header]:
    """Open an image with Pillow, not yet decoded, and check it against all limits."""
    length = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if not length:
        raise ImageError("the file is empty (0 bytes)")
    _check_length(length)
    header = headers.read(stream, pixels)
    image = Image.open(header.stream, formats=FORMATS)
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{width}x{height} pixels; the shortest side allowed is {MIN_SIDE}")
    most = max_pixels // MEMORY_FACTORS.get(image.format or "", 1)
    if max(width * height, header.tile) > most:
        tiles = f" in tiles of {header.tile:,} pixels" if header.tile else ""
        raise ImageError(f"{width}x{height} pixels{tiles}; at most {most:,} are allowed")
    if width * height * header.scans > max_pixels * SCANS:
        raise ImageError(f"{width}x{height} pixels in {header.scans} scans; save it again")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{width}x{height} pixels; the longest side allowed is {MAX_SIDE:,}")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError("an animation or a stack of pictures; save one of them alone")
    return image, header


def _orientation(image: Image.Image) -> int:
    """Return the orientation, 1 to 8, from EXIF or XMP; 1 for TIFF, which Pillow turns itself."""
    if image.format == "TIFF":
        return 1
    exif = image.info.get("exif")
    raw = image.info.get("Raw profile type exif")  # ImageMagick writes EXIF so into a PNG
    try:
        exif = bytes.fromhex("".join(raw.split("\n")[3:])) if raw and not exif else exif
        tags = headers.directory(io.BytesIO((exif or b"").removeprefix(b"Exif\0\0")))
    except (ValueError, ImageError):  # damaged EXIF counts as no EXIF
        tags = {}
    if ORIENTATION not in tags:
        text = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
        text = text if isinstance(text, bytes) else text.encode(errors="replace")
        stated = re.search(rb'tiff:Orientation(="|>)([0-9])', text)
        tags[ORIENTATION] = int(stated[2]) if stated else 1
    return tags[ORIENTATION]


def upright(image: Image.Image) -> Image.Image:
    """Decode an image, and turn it as EXIF says."""
    image.load()
    turn = UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, header: headers.Header) -> Image.Image:
    highest = 255  # level of 0 to 255, of a picture of 16 bits
    if image.mode == "F":
        raise ImageError("floating-point pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey: `convert` would clip it at 255
        levels = np.array(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ImageError("32-bit pixels; save it with 8 or 16 bits")
        # A camera of 12 bits writes levels of 0 to 4095, mostly without stating the bits.
        used = max(header.bits or CAMERA_BITS, int(levels.max()).bit_length())
        if used < 16 and not header.bits:
            what = "16-bit grey does not state its bits; they follow from the largest value"
            say_once(f"{what} of each picture, and are at least {CAMERA_BITS}")
        levels >>= used - 8
        highest = levels.max()
        image = Image.fromarray(levels.astype(np.uint8))
    elif header.depth == 16 and image.mode[:3] == "RGB":  # Pillow keeps the upper 8 bits
        highest = np.array(image)[..., :3].max()
    if 0 < highest < DARK:
        what = "a picture of 16 bits has only low values and looks almost black; save it in 8 bits"
        say_once(what, level=logging.WARNING)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        image = white
    return image if image.mode == "RGB" else image.convert("RGB")


@cache
def say_once(what: str, *values: object, level: int = logging.INFO) -> None:
    """Log an assumption or a warning about images, once per process."""
    log.log(level, what, *values)


class Place(NamedTuple):
    """Rectangle of an image in the input of a network, in pixels."""

    left: int
    top: int
    width: int
    height: int


def place(width: int, height: int, size: Size, fit: str) -> Place:
    """Return where an image of `width` x `height` pixels lies in an input of `size`.

    `stretch` fills the input; `letterbox` keeps the image's shape and centres the image.
    """
    rows, columns = height_width(size)
    if fit == "stretch":
        return Place(0, 0, columns, rows)
    if width * rows >= height * columns:  # as wide as the input, with margins above and below
        wide, high = columns, max(1, round(height * columns / width))
    else:
        wide, high = max(1, round(width * rows / height)), rows
    return Place((columns - wide) // 2, (rows - high) // 2, wide, high)


def resize(
    image: Image.Image,
    size: Size,
    fit: str = "stretch",
    way: Image.Resampling = Image.Resampling.BILINEAR,  # anti-aliased, as Pillow does it
    margin: int = GREY,
) -> NDArray[np.uint8]:
    """Resize to uint8 `[H, W, 3]`, or `[H, W]` for one channel; see `place`."""
    left, top, width, height = place(*image.size, size, fit)
    resized = np.asarray(image.resize((width, height), way))
    if (height, width) == height_width(size):  # no margins
        return resized
    framed = np.full((*height_width(size), *resized.shape[2:]), margin, np.uint8)
    framed[top : top + height, left : left + width] = resized
    return framed


def load(
    source: File | bytes,
    size: Size,
    name: str = "picture",
    max_pixels: int = MAX_PIXELS,
    fit: str = "stretch",
) -> NDArray[np.uint8]:
    """Decode and resize an image to uint8 RGB `[H, W, 3]`; see `decode` and `place`."""
    return resize(decode(source, size, name, max_pixels), size, fit)


def dimensions(file: File | bytes) -> tuple[int, int]:
    """Return width and height of the upright image in pixels, without decoding the pixels.

    Raises:
        ImageError: missing, no image, or over a limit.
    """
    if isinstance(file, Member):
        return file.width, file.height
    with named("picture" if isinstance(file, bytes) else str(file)):
        if isinstance(file, Path):
            _check(file)
        with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as stream:
            image = open_checked(stream, MAX_PIXELS, pixels=False)[0]
            sideways = _orientation(image) in (5, 6, 7, 8)
            return (image.height, image.width) if sideways else image.size


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode RGB `[H, W, 3]`, or a mask `[H, W]` for `load_mask`, as PNG."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def walk(
    folder: Path,
    root: Path | None = None,
    wanted: Callable[[str], bool] = lambda name: True,
    warn: bool = True,
) -> list[str]:
    """List the files below `folder` with a `wanted` name and not hidden, sorted as `Path`s are.

    They are texts, because there may be a million. Links to folders outside of the set are followed
    once each. Links that `leads_back` finds are not followed; with `warn` a line in the log names
    them. `root` is that of the set, if `folder` is a part of the set.
    """
    files: list[str] = []
    seen = {os.path.realpath(folder)}
    for base, folders, names in os.walk(folder, followlinks=True):
        visible = [name for name in names if not name.startswith(".")]
        start = os.path.join(base, "")
        files.extend(start + name for name in filter(wanted, visible))
        inside = sorted(name for name in folders if not name.startswith("."))
        folders.clear()  # what is left in this list is visited next
        for name in inside:
            path = Path(base, name)
            target = os.path.realpath(path)
            if leads_back(path, root or folder, warn):
                continue
            if target not in seen:
                folders.append(name)
                seen.add(target)
            elif warn:
                say_once("%s: a second link to a folder; only the first is followed", path)
    return sorted(files, key=lambda path: path.replace(os.sep, "\0"))


def leads_back(path: Path, root: Path, warn: bool = True) -> bool:
    """Return whether `path` is a link to `root`, to a folder in it or to a folder above it.

    Such a link is not followed: one in `cats/` to `dogs/`, or to the folder above both, would give
    the cats the images of the dogs.
    """
    if not path.is_symlink():
        return False
    target, own = os.path.realpath(path), os.path.realpath(root)
    back = os.path.commonpath([target, own]) in (target, own)
    if back and warn:
        what = "%s: a link to a folder of the set, or above it, which is not followed"
        say_once(what, path, level=logging.WARNING)
    return back


def find(folder: Path, root: Path | None = None) -> Lazy[Path]:
    """Find all images below `folder` by their endings, sorted; see `walk`.

    Raises:
        ImageError: a name is not UTF-8, so no table could hold the name.
    """
    paths = walk(folder, root, lambda name: name.lower().endswith(EXTENSIONS))
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ImageError(f"{os.fsencode(path)!r}: a name that is not UTF-8") from None
    return Lazy(paths, Path)


def warn_of_unread_files(folder: Path, read: Iterable[File] = ()) -> None:
    """Warn of files below `folder` that look like images but are not read.

    `read` are the images of the set: a table may name files without endings.
    """

    def wanted(name: str) -> bool:
        return name.lower().endswith(NOT_READ) or not ANY_ENDING.search(name)

    found = walk(folder, wanted=wanted, warn=False)
    others = [path for path in found if path.lower().endswith(NOT_READ)]
    bare = [path for path in found if not ANY_ENDING.search(path) and _begins_as_image(path)]
    known = set(map(str, read)) if bare else set()
    bare = [path for path in bare if path not in known]
    for what, paths in (
        ("files are in formats that are not read; save them as JPEG or PNG", others),
        ("pictures lack an ending such as .jpg, and are not read; rename them", bare),
    ):
        if paths:
            names = listing((Path(path).relative_to(folder).as_posix() for path in paths), most=5)
            log.warning("%s: %d %s: %s", folder, len(paths), what, names)


def _begins_as_image(path: str) -> bool:
    """Return whether a file begins as JPEG, PNG, GIF or WebP files do."""
    if os.path.isfile(path):  # a pipe would wait for ever
        with suppress(OSError), open(path, "rb") as file:
            return file.read(8).startswith((headers.JPEG, headers.PNG, headers.GIF, b"RIFF"))
    return False


def matching(pattern: str) -> list[Path]:
    """Find files by a pattern, in which `**` visits each real folder once; see `walk`."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return [Path(path) for path in glob(pattern)]
    at = parts.index("**")
    after = os.path.join(*parts[at + 1 :] or ("*",))
    bases = glob(str(Path(*parts[:at])))
    files = (Path(path) for base in bases for path in walk(Path(base)))
    return [file for file in files if file.match(after)]
