"""Writing shards, for `shard.py`; what they are is said in `shards.py`."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from nano_cv.data import images, store
from nano_cv.data.formats.shards import FORMAT, PICTURE, check_name, targets_of
from nano_cv.data.pictures import Resized
from nano_cv.data.preparing import prepared
from nano_cv.data.targets import Packed
from nano_cv.errors import UserError
from nano_cv.files import make_once


class Item(NamedTuple):
    """One picture on its way into an archive.

    Attributes:
        name: relative to the root of its set.
        content: the bytes of its file.
        size: width and height of the upright picture, in pixels.
        target: what is known of it.
    """

    name: str
    content: bytes
    size: tuple[int, int]
    target: Packed


class Archives:
    """The tar archives of one split, written one after the other, and the rows of its index.

    Args:
        folder: where they go, a path or URL.
        split: what their names begin with.
        most: bytes of one; a picture that would go beyond begins the next.
    """

    def __init__(self, folder: str, split: str, most: int) -> None:
        self.folder, self.split, self.most = folder, split, most
        self.shards: list[tuple[str, int]] = []
        self.rows: list[list[Any]] = []
        self._begin()

    def add(self, item: Item) -> None:
        """Add a picture and its target, by the names that WebDataset has for them."""
        if self.tar.offset and self.tar.offset + len(item.content) > self.most:
            self.finish()
        key, target = f"{len(self.rows):08d}", item.target
        place = self._put(key + PurePath(item.name).suffix.lower(), item.content)
        beside = self._put(key + target.ending, target.content)
        entry = beside if target.entry is None else target.entry
        self.rows.append([len(self.shards), item.name, *place, *item.size, entry])

    def finish(self) -> None:
        """Write the archive that is begun."""
        self.tar.close()
        name, content = f"{self.split}-{len(self.shards):05d}.tar", self.buffer.getvalue()
        store.write(f"{self.folder}/{name}", content)
        self.shards.append((name, len(content)))
        self._begin()

    def _begin(self) -> None:
        self.buffer = io.BytesIO()
        self.tar = tarfile.TarFile(fileobj=self.buffer, mode="w", format=tarfile.USTAR_FORMAT)

    def _put(self, name: str, content: bytes) -> tuple[int, int, str]:
        """Where the content begins, how long it is, and its SHA-256."""
        member = tarfile.TarInfo(name)
        member.size = len(content)
        start = self.tar.offset + tarfile.BLOCKSIZE  # behind the head
        self.tar.addfile(member, io.BytesIO(content))
        return start, len(content), hashlib.sha256(content).hexdigest()


def write(splits: Mapping[str, Resized], task: str, output: str, most: int) -> None:
    """Write all splits of a set as shards of at most `most` bytes, and a picture.

    In a folder they appear all together or not at all; in a store the indices come last, and what
    has none is no set.

    Raises:
        UserError: there is something already; pictures that cannot be used; the store refuses.
        OSError: the disk is full.
    """
    refuse_existing(output)
    if most > 10**9:  # far enough below `store.MAX_SHARD`: the last target may go beyond
        raise UserError(f"shard_mb={most / 1e6:g}: at most 1000 are allowed")
    if output.startswith(store.S3):
        _write(splits, task, output, most)
    else:
        ours = []

        def make(folder: Path) -> None:
            _write(splits, task, str(folder), most)
            ours.append(folder)

        make_once(Path(output), make)
        if not ours:  # another process wrote there meanwhile
            refuse_existing(output)


def refuse_existing(output: str) -> None:
    """Raise a `UserError` where there is something already; worth a look before a set is opened."""
    remote = output.startswith(store.S3)
    if store.exists(f"{output}/train.json") if remote else os.path.lexists(output):
        raise UserError(f"output={output}: there is one already; remove it, or choose another")


def _write(splits: Mapping[str, Resized], task: str, folder: str, most: int) -> None:
    indices = {}
    for split, resized in splits.items():
        archives, classes = Archives(folder, split, most), resized.pictures.classes
        counts = np.zeros(len(classes), np.int64)
        for item in _items(resized, split):
            archives.add(item)
            counts += item.target.counts
        archives.finish()
        indices[split] = {
            "format": FORMAT,
            "task": targets_of(task),
            "classes": classes,
            "counts": counts.tolist(),
            "shards": archives.shards,
            "pictures": archives.rows,
        }
    for split, index in indices.items():
        store.write(f"{folder}/{split}.json", json.dumps(index).encode())


def _items(resized: Resized, split: str) -> Iterator[Item]:
    """Every picture, checked; those for training are shuffled, for a training mixes few shards."""
    order = np.arange(len(resized))
    if split == "train":
        order = np.random.default_rng(0).permutation(order)
    names = resized.pictures.names
    return prepared(
        order.tolist(), lambda index: _item(resized, index, names[index]), f"Writing {split}"
    )


def _item(resized: Resized, index: int, name: str) -> Item:
    file = resized.pictures.files[index]
    try:
        check_name(name, PICTURE)
    except ValueError as error:
        raise images.ImageError(f"{file}: shards take no such name; rename it") from error
    content = images.read(file)
    size = images.decode(content, name=str(file)).size
    return Item(name, content, size, resized.fitted.pack(index))
