"""Pictures and masks decoded and resized once, kept as one uint8 array on disk.

An epoch then costs a memory-mapped read instead of hundreds of JPEG decodes: on two cores this is
the difference between a processor that trains and one that unpacks pictures.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.preparing import prepared
from nano_cv.data.store import File, stamp
from nano_cv.files import replacing

FORMAT = 3  # raise it when decoding or resizing changes, so that old arrays are not used


Load = Callable[[File, bytes], NDArray[np.uint8]]  # a file and its content to pixels


class Cached(NamedTuple):
    """`pixels` uint8 `[N, *shape]` on disk, and the SHA-256 of each of the N files."""

    pixels: NDArray[np.uint8]
    digests: list[str]


def cached(
    files: Sequence[File], shape: Sequence[int], way: str, folder: Path, load: Load
) -> Cached:
    """Return the pixels of `files`, decoding them if that has not been done before.

    The array is keyed by names, sizes and dates of the files, and by `shape` and `way`, which names
    what `load` does. It appears under its name only when whole, so a kill or a second process at
    the same moment does no harm.

    Raises:
        UserError: some files cannot be used; all of them are named.
        OSError: the disk is full or the folder not writable; nothing is left behind.
    """
    path = folder / f"{_key(files, f'{FORMAT} {list(shape)} {way} {images.MAX_PIXELS}')}.npy"
    try:
        return _open(path)
    except (FileNotFoundError, ValueError, EOFError):  # not made yet, or cut by a power failure
        _build(files, tuple(shape), path, load)
        return _open(path)


def _open(path: Path) -> Cached:
    # The digests lie beside the array and were written first.
    return Cached(np.load(path, mmap_mode="r"), json.loads(path.with_suffix(".json").read_text()))


def _key(files: Sequence[File], way: str) -> str:
    key = hashlib.sha256(way.encode())
    for file in files:
        key.update(f"{stamp(file)}\n".encode())
    return key.hexdigest()[:24]


def _build(files: Sequence[File], shape: tuple[int, ...], path: Path, load: Load) -> None:
    def prepare(file: File) -> tuple[NDArray[np.uint8], str]:
        content = images.read(file)
        return load(file, content), hashlib.sha256(content).hexdigest()

    path.parent.mkdir(parents=True, exist_ok=True)
    digests = []
    # Plain writes, not a writable memory map: on a full disk that one dies of SIGBUS.
    with replacing(path) as temporary, temporary.open("wb") as output:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *shape)}
        np.lib.format.write_array_header_1_0(output, header)
        for pixels, digest in prepared(files, prepare, "Decoding once"):
            output.write(pixels.tobytes())
            digests.append(digest)
        output.flush()
        with replacing(path.with_suffix(".json")) as beside:
            beside.write_text(json.dumps(digests))
