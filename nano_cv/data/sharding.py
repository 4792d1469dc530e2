"""Writes a data set as shards, for `shard.py`; their format is described in `formats/shards.py`."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images, store
from nano_cv.data.formats.shards import FORMAT, OBJECTS, row_type
from nano_cv.data.pictures import Resized
from nano_cv.data.preparing import prepared
from nano_cv.data.targets import Packed
from nano_cv.errors import UserError
from nano_cv.files import make_once

# Name, relative to the root of the set; bytes of the file; width and height in pixels; and target.
Item = tuple[str, bytes, tuple[int, int], Packed]


class ShardWriter:
    """Writes a split as tar archives, one after the other, and collects the tables of its index.

    `kind` is that of the targets, see `formats.shards.TASKS`. An archive ends before the image with
    which it would be larger than about `most` bytes.
    """

    def __init__(self, folder: str, split: str, kind: str, most: int) -> None:
        self.folder, self.split, self.kind, self.most = folder, split, kind, most
        self.shards: list[tuple[str, int]] = []
        self.count = self.count_of_objects = 0  # rows of both tables that are written
        self.pictures: list[NDArray[np.void]] = []  # the first table, a part per archive
        self.objects: list[NDArray[np.void]] = []  # the second table, if the kind has one
        self._begin()

    def add(self, name: str, content: bytes, size: tuple[int, int], target: Packed) -> None:
        """Add an image of `size` (width, height) and its target, under names as in WebDataset."""
        if self.tar.offset and self.tar.offset + len(content) > self.most:
            self.finish()
        key = f"{self.count + len(self.rows):08d}"
        place = self._put(key + PurePath(name).suffix.lower(), content)
        beside = self._put(key + target.ending, target.content)
        entry: Sequence[Any] = beside if target.entry is None else [target.entry]
        if isinstance(target.entry, list):
            entry = [self.count_of_objects + len(self.open_objects), len(target.entry)]
            self.open_objects += target.entry
        self.rows.append((len(self.shards), name.encode(), *size, *place, *entry))

    def finish(self) -> None:
        """Write the current archive, and begin the next."""
        self.tar.close()
        name, content = f"{self.split}-{len(self.shards):05d}.tar", self.buffer.getvalue()
        store.write(f"{self.folder}/{name}", content)
        self.shards.append((name, len(content)))
        longest = max((len(row[1]) for row in self.rows), default=1)
        self.pictures.append(np.array(self.rows, row_type(self.kind, longest)))
        if self.kind in OBJECTS:
            self.objects.append(np.array(self.open_objects, OBJECTS[self.kind]))
        self.count += len(self.rows)
        self.count_of_objects += len(self.open_objects)
        self._begin()

    def tables(self) -> dict[str, bytes]:
        """Return the tables of the index as `.npy` files by name; see `formats.shards`."""
        made = {}
        parts = {f"{self.split}.npy": self.pictures, f"{self.split}.objects.npy": self.objects}
        for name, arrays in parts.items():
            if arrays:
                content = io.BytesIO()
                # The columns of names differ in width; together they are as wide as the widest.
                np.lib.format.write_array(content, np.concatenate(arrays), allow_pickle=False)
                made[name] = content.getvalue()
        return made

    def _begin(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.open_objects: list[tuple[Any, ...]] = []  # objects of the current archive
        self.buffer = io.BytesIO()
        self.tar = tarfile.TarFile(fileobj=self.buffer, mode="w", format=tarfile.USTAR_FORMAT)

    def _put(self, name: str, content: bytes) -> tuple[int, int, bytes]:
        """Add a file; return start and length of its content in bytes, and its SHA-256."""
        member = tarfile.TarInfo(name)
        member.size = len(content)
        start = self.tar.offset + tarfile.BLOCKSIZE  # the content begins behind a tar header
        self.tar.addfile(member, io.BytesIO(content))
        return start, len(content), hashlib.sha256(content).digest()


def write(splits: Mapping[str, Resized], data_hash: str, output: str, most: int) -> None:
    """Write all splits of a set, and the hash of the set, as shards of about `most` bytes.

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
        _write(splits, data_hash, output, most)
    else:
        ours = []

        def fill(folder: Path) -> None:
            ours.append(folder)
            _write(splits, data_hash, str(folder), most)

        make_once(Path(output), fill)
        if not ours:  # another process wrote the same output meanwhile
            refuse_existing(output)


def refuse_existing(output: str) -> None:
    """Raise a `UserError` if the output exists; called early too, before a set is opened."""
    if output.startswith(store.S3):
        from nano_cv.data import s3

        taken = s3.exists(f"{output}/train.json")
    else:
        taken = os.path.lexists(output)
    if taken:
        raise UserError(f"output={output}: there is one already; remove it, or choose another")


def _write(splits: Mapping[str, Resized], data_hash: str, folder: str, most: int) -> None:
    kind, indices = splits["train"].fitted.kind, {}
    for split, resized in splits.items():
        archives, classes = ShardWriter(folder, split, kind, most), resized.pictures.classes
        counts = np.zeros(len(classes), np.int64)
        for name, content, size, target in _items(resized, split):
            archives.add(name, content, size, target)
            counts += target.counts
        archives.finish()
        tables = archives.tables()
        for name, content in tables.items():
            store.write(f"{folder}/{name}", content)
        indices[split] = {
            "format": FORMAT,
            "kind": kind,
            "classes": classes,
            "counts": counts.tolist(),
            "data_hash": data_hash,
            "shards": archives.shards,
            "tables": {name: hashlib.sha256(table).hexdigest() for name, table in tables.items()},
        }
    for split, index in indices.items():
        store.write(f"{folder}/{split}.json", json.dumps(index).encode())


def _items(resized: Resized, split: str) -> Iterator[Item]:
    """Yield all images, checked; training images are shuffled, as a training mixes few shards."""
    order = np.arange(len(resized))
    if split == "train":
        order = np.random.default_rng(0).permutation(order)
    names = resized.pictures.names

    def item(index: int) -> Item:
        file = resized.pictures.files[index]
        content = images.read(file)
        size = images.decode(content, name=str(file)).size
        return names[index], content, size, resized.fitted.pack(index)

    return prepared(order.tolist(), item, f"Writing {split}")
