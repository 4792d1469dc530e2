"""Cache of images and masks, decoded and resized once, as a uint8 array on disk.

With the cache, an epoch reads a file instead of decoding hundreds of JPEG files. On two cores the
decoding would take the time that the training needs.

The array is read, not mapped into memory, because a process dies of a bus error if a mapped file is
cut short. Each image has a checksum, which is compared when a process first reads the image.
"""

import hashlib
import logging
import math
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.preparing import prepared
from nano_cv.data.store import File, stamp, texts_of
from nano_cv.errors import DISK_FULL, UserError
from nano_cv.files import replacing

log = logging.getLogger(__name__)
FORMAT = 6  # raise it when decoding, resizing or the files change, so that no old array is used
SUMS_ENDING = ".sums"  # ending of a NumPy table with a row per file
SUMS = np.dtype([("sha256", "V32"), ("crc32", "<u4")])  # of the file, and of its decoded pixels
Load = Callable[[File, bytes], NDArray[np.uint8]]  # turns a file and its content into pixels


class Cached:
    """Array of decoded images on disk, with the SHA-256 of each original file.

    The array lies at `path`, and `.sums` beside it holds digests and checksums; `files` are the
    original images. `load` decodes a damaged image again.

    Raises:
        ValueError: the array is not whole, or not such an array.
        OSError: the file of the array does not exist.
    """

    def __init__(self, path: Path, files: Sequence[File], load: Load) -> None:
        beside = np.load(path.with_suffix(SUMS_ENDING), allow_pickle=False)
        array = np.lib.format.open_memmap(path, "r")  # refuses a file that was cut short
        self.path, self.files, self.load = path, files, load
        self.start, self.shape = array.offset, array.shape[1:]
        self.size = math.prod(self.shape)  # bytes of an image
        self.digests, self.checksums = beside["sha256"].copy(), beside["crc32"].copy()
        self.checked, self.damaged = np.zeros(len(files), bool), False
        if array.dtype != np.uint8 or not len(array) == len(beside) == len(files):
            raise ValueError(f"{path}: not whole")

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return the pixels of the images at `indices`, uint8 `[N, *shape]`.

        A damaged image is decoded again, with a warning; the next start builds a new array.

        Raises:
            ImageError: the original file of a damaged image is missing or damaged too.
        """
        pixels = np.empty((len(indices), *self.shape), np.uint8)
        with self.path.open("rb") as file:
            for row, index in enumerate(indices):
                file.seek(self.start + int(index) * self.size)
                whole = file.readinto(pixels[row]) == self.size
                if not self.checked[index]:
                    self.checked[index] = zlib.crc32(pixels[row]) == self.checksums[index]
                if not (whole and self.checked[index]):
                    pixels[row] = self._again(self.files[index])
        return pixels

    def _again(self, file: File) -> NDArray[np.uint8]:
        if not self.damaged:
            log.warning("%s: damaged; what is damaged is decoded again", self.path)
            with suppress(OSError):  # in a folder that others own it stays as it is
                self.path.with_suffix(SUMS_ENDING).unlink()  # so that the next start builds anew
            self.damaged = True
        return self.load(file, images.read(file))


class Uncached:
    """Images that are decoded at each `read`, used like `Cached`."""

    def __init__(self, files: Sequence[File], shape: Sequence[int], load: Load) -> None:
        self.files, self.shape, self.load = files, shape, load

    @property
    def digests(self) -> NDArray[np.void]:
        """SHA-256 of each file, `[N]` of 32 bytes."""
        digests = [hashlib.sha256(images.read(file)).digest() for file in self.files]
        return np.array(digests, "V32")

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return the pixels of the images at `indices`, uint8 `[N, *shape]`."""
        files = [self.files[index] for index in indices]
        loaded = [self.load(file, images.read(file)) for file in files]
        return np.array(loaded, np.uint8).reshape(-1, *self.shape)


def pixels_of(
    files: Sequence[File], shape: Sequence[int], way: str, folder: Path | None, load: Load
) -> Cached | Uncached:
    """Return the pixels of `files`, decoded now if the cache in `folder` lacks them.

    Without a folder, files are decoded at each `read`. The array's name depends on names, sizes and
    dates of the files, on `shape`, and on `way`, a text that differs if `load` would make other
    pixels. The array gets its name only when whole, so a kill or a second process at the same
    moment does no harm.

    Raises:
        UserError: some files cannot be used, and the message names all of them; or the folder is
            not writable.
        OSError: the disk is full; nothing is left behind.
    """
    if folder is None:
        return Uncached(files, shape, load)
    path = folder / f"{key_of(files, f'{FORMAT} {list(shape)} {way} {images.MAX_PIXELS}')}.npy"
    try:
        return Cached(path, files, load)
    except FileNotFoundError:
        pass  # not made yet
    except (ValueError, EOFError, TypeError, KeyError):  # cut short, as by a power failure
        log.warning("%s: damaged; the pictures are decoded again", path)
    _build(files, tuple(shape), path, load)
    return Cached(path, files, load)


def key_of(files: Sequence[File], way: str = "") -> str:
    """Return a hash of `way`, and of names, sizes and dates of the files."""
    key, here = hashlib.sha256(way.encode()), os.getcwd()
    for file in texts_of(files):
        key.update(f"{stamp(file, here)}\n".encode())
    return key.hexdigest()[:24]


def _build(files: Sequence[File], shape: tuple[int, ...], path: Path, load: Load) -> None:
    def prepare(file: File) -> tuple[NDArray[np.uint8], bytes]:
        content = images.read(file)
        return load(file, content), hashlib.sha256(content).digest()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise UserError(
            f"{path.parent}: cannot be written to ({error.strerror}); choose another folder: "
            "paths.cache=FOLDER, or data.cache=null for no cache"
        ) from error
    sums = []
    with replacing(path) as temporary, temporary.open("wb") as output:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *shape)}
        np.lib.format.write_array_header_1_0(output, header)
        for pixels, digest in prepared(files, prepare, "Decoding once"):
            content = pixels.tobytes()
            output.write(content)
            sums.append((digest, zlib.crc32(content)))
        output.flush()
        with replacing(path.with_suffix(SUMS_ENDING)) as temporary, temporary.open("wb") as beside:
            np.save(beside, np.array(sums, SUMS), allow_pickle=False)
