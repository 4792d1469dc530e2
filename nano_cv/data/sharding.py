"""Writes a data set as shards, for `shard.py`; their format is described in `formats/shards.py`."""

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
    """Image and target to write into an archive.

    Attributes:
        name: path of the image relative to the root of the set.
        content: the bytes of the image file.
        size: width and height of the upright image, in pixels.
        target: the target of the image, packed for the archive.
    """

    name: str
    content: bytes
    size: tuple[int, int]
    target: Packed


class Archives:
    """Tar archives of a split, written one after the other, and the rows of the split's index.

    Args:
        folder: path or URL of the folder for the archives.
        split: name of the split, with which the names of the archives begin.
        most: largest size of an archive in bytes; an image beyond this begins the next archive.
    """

    def __init__(self, folder: str, split: str, most: int) -> None:
        self.folder, self.split, self.most = folder, split, most
        self.shards: list[tuple[str, int]] = []
        self.rows: list[list[Any]] = []
        self._begin()

    def add(self, item: Item) -> None:
        """Add an image and its target, under names as in WebDataset."""
        if self.tar.offset and self.tar.offset + len(item.content) > self.most:
            self.finish()
        key, target = f"{len(self.rows):08d}", item.target
        place = self._put(key + PurePath(item.name).suffix.lower(), item.content)
        beside = self._put(key + target.ending, target.content)
        entry = beside if target.entry is None else target.entry
        self.rows.append([len(self.shards), item.name, *place, *item.size, entry])

    def finish(self) -> None:
        """Write the current archive, and begin the next."""
        self.tar.close()
        name, content = f"{self.split}-{len(self.shards):05d}.tar", self.buffer.getvalue()
        store.write(f"{self.folder}/{name}", content)
        self.shards.append((name, len(content)))
        self._begin()

    def _begin(self) -> None:
        self.buffer = io.BytesIO()
        self.tar = tarfile.TarFile(fileobj=self.buffer, mode="w", format=tarfile.USTAR_FORMAT)

    def _put(self, name: str, content: bytes) -> tuple[int, int, str]:
        """Add a file; return start and length of its content in bytes, and its SHA-256."""
        member = tarfile.TarInfo(name)
        member.size = len(content)
        start = self.tar.offset + tarfile.BLOCKSIZE  # the content begins behind a tar header
        self.tar.addfile(member, io.BytesIO(content))
        return start, len(content), hashlib.sha256(content).hexdigest()


def write(splits: Mapping[str, Resized], task: str, output: str, most: int) -> None:
    """Write all splits of a set as shards of about `most` bytes.

    In a folder the shards appear all together or not at all. In a store the indices are written
    last, so that an unfinished set has none and cannot be read.

    Raises:
        UserError: the output exists, images cannot be used, or the store refuses.
        OSError: the disk is full.
    """
    refuse_existing(output)
    if most > 10**9:  # far below `store.MAX_SHARD`, because the last target may exceed `most`
        raise UserError(f"shard_mb={most / 1e6:g}: at most 1000 are allowed")
    if output.startswith(store.S3):
        _write(splits, task, output, most)
    else:
        ours = []

        def make(folder: Path) -> None:
            _write(splits, task, str(folder), most)
            ours.append(folder)

        make_once(Path(output), make)
        if not ours:  # another process has written the same folder meanwhile
            refuse_existing(output)


def refuse_existing(output: str) -> None:
    """Raise a `UserError` if the output exists; called early too, before a set is opened."""
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
    """Yield all images, checked; training images are shuffled, as a training mixes few shards."""
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
