"""Writes a data set as shards, for `shard.py`; their format is described in `formats/shards.py`."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from nano_cv.data import images, store
from nano_cv.data.formats.shards import FORMAT, OBJECTS, Rows, row_type
from nano_cv.data.pictures import Resized
from nano_cv.data.preparing import prepared
from nano_cv.data.targets import Packed
from nano_cv.errors import UserError
from nano_cv.files import make_once

# Name, relative to the root of the set; bytes of the file; width and height in pixels; and target.
Item = tuple[str, bytes, tuple[int, int], Packed]
# Content of a tar archive; its rows of both tables of the index; and counts of each class `[K]`.
Archive = tuple[bytes, list[tuple[Any, ...]], list[tuple[Any, ...]], Any]


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
        classes, shards = resized.pictures.classes, list[tuple[str, int]]()
        counts = np.zeros(len(classes), np.int64)
        pictures, objects = list[Rows](), list[Rows]()  # parts of both tables, one per archive
        for content, rows, own, counted in _archives(_items(resized, split), most):
            name = f"{split}-{len(shards):05d}.tar"
            store.write(f"{folder}/{name}", content)
            shards.append((name, len(content)))
            del content  # it may have a gigabyte, and so may the next
            longest = max((len(row[1]) for row in rows), default=1)
            pictures.append(np.array(rows, row_type(kind, longest)))
            if kind in OBJECTS:
                objects.append(np.array(own, OBJECTS[kind]))
            counts += counted
        tables = {}
        for name, parts in ((f"{split}.npy", pictures), (f"{split}.objects.npy", objects)):
            if parts:
                table = io.BytesIO()
                # The columns of names differ in width; together they are as wide as the widest.
                np.lib.format.write_array(table, np.concatenate(parts), allow_pickle=False)
                store.write(f"{folder}/{name}", table.getvalue())
                tables[name] = hashlib.sha256(table.getvalue()).hexdigest()
        indices[split] = {
            "format": FORMAT,
            "kind": kind,
            "classes": classes,
            "counts": counts.tolist(),
            "data_hash": data_hash,
            "shards": shards,
            "tables": tables,
        }
    for split, index in indices.items():
        store.write(f"{folder}/{split}.json", json.dumps(index).encode())


def _archives(items: Iterator[Item], most: int) -> Iterator[Archive]:
    """Yield tar archives, with files named as in WebDataset.

    An archive ends before the image with which it would be larger than about `most` bytes.
    """
    item, number, before = next(items, None), count(), 0  # objects in the archives before
    for shard in count():
        buffer, rows, objects, counts = io.BytesIO(), list[Any](), list[Any](), np.array(0)
        with tarfile.TarFile(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            while item and not (rows and tar.offset + len(item[1]) > most):
                name, content, size, target = item
                key = f"{next(number):08d}"
                place = _put(tar, key + PurePath(name).suffix.lower(), content)
                beside = _put(tar, key + target.ending, target.content)
                entry: Sequence[Any] = beside if target.entry is None else [target.entry]
                if isinstance(target.entry, list):
                    entry = [before + len(objects), len(target.entry)]
                    objects += target.entry
                rows.append((shard, name.encode(), *size, *place, *entry))
                counts = counts + target.counts
                item = next(items, None)
        yield buffer.getvalue(), rows, objects, counts
        if not item:
            return
        before += len(objects)


def _put(tar: tarfile.TarFile, name: str, content: bytes) -> tuple[int, int, bytes]:
    """Add a file; return start and length of its content in bytes, and its SHA-256."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    start = tar.offset + tarfile.BLOCKSIZE  # the content begins behind a tar header
    tar.addfile(member, io.BytesIO(content))
    return start, len(content), hashlib.sha256(content).digest()


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
