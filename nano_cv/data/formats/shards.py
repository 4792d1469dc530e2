"""Reader and writer of shards: tar archives of some hundred images, in a folder or in a store.

    train.json  train.npy  train-00000.tar  train-00001.tar ...  val.json  val.npy ...

A store, or the shared disk of a cluster, delivers a large file much faster than many small files,
and the training machine needs no disk space for the set. The archives have the layout of WebDataset
(https://github.com/webdataset/webdataset), `00000012.jpg` beside `00000012.cls`, `.json` or
`.mask.png`, so other programs can read them too.

Beside the archives, an index per split has the position of each image, so that images can be read
by number, as in every other format. `train.json` describes the set, and `train.npy` is a NumPy
table with a row per image; boxes, and labels where an image has several, are the rows of a second
table, `train.objects.npy`. The tables are mapped into memory and checked column by column. Objects
of Python are made for an image when it is read, so that a large set opens in seconds and takes
little memory.

This package does not read shards by WebDataset or litdata: WebDataset runs commands that stand in a
URL, and both unpickle content of archives.
"""

import hashlib
import io
import json
import os
import re
import tarfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from mmap import MADV_DONTNEED, mmap
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images, s3, store
from nano_cv.data.formats import reading
from nano_cv.data.formats.splitting import SEVERAL_LABELS
from nano_cv.data.pictures import SPLITS, Pictures, Resized, warn_of_twins
from nano_cv.data.preparing import prepared
from nano_cv.data.store import Lazy, Member
from nano_cv.data.targets import Boxes, Packed
from nano_cv.errors import UserError, listing
from nano_cv.files import make_once

FORMAT = 2  # raise it when the index changes
AS_IN = "as in: python shard.py data=folder data.root=~/photos output=~/shards"
AT_ONCE = 65_536  # images whose rows are checked at once
ARCHIVE = re.compile(r"(?!\.)[\w.-]+\.tar")  # name of an archive in the folder of the index
TASKS = {  # by the kind of the targets
    "label": "classification",
    "labels": "classification",
    "boxes": "detection",
    "mask": "segmentation",
}
OBJECTS = {  # columns of the second table, which only these kinds have
    "labels": np.dtype([("label", "<i4")]),
    "boxes": np.dtype([("box", "<f4", 4), ("label", "<i4"), ("ignored", "u1")]),
}
Rows = NDArray[np.void]
Archives = list[tuple[str, int]]  # path or URL of each archive, and its size in bytes
# Name, relative to the root of the set; bytes of the file; width and height in pixels; and target.
Item = tuple[str, bytes, tuple[int, int], Packed]
# Content of a tar archive; its rows of both tables of the index; and counts of each class `[K]`.
Tar = tuple[bytes, list[tuple[Any, ...]], list[tuple[Any, ...]], Any]


def row_type(kind: str, longest: int) -> np.dtype[np.void]:
    """Return the columns of the first table, for a kind of targets; names have `longest` bytes."""
    target = {
        "label": [("label", "<i4")],
        "mask": [("mask_start", "<i8"), ("mask_size", "<i8"), ("mask_sha256", "V32")],
    }.get(kind, [("first", "<i8"), ("objects", "<i8")])  # position in the second table, and number
    place = [("start", "<i8"), ("size", "<i8"), ("sha256", "V32")]  # in the archive, in bytes
    picture = [("shard", "<i4"), ("name", f"S{longest}"), ("width", "<i4"), ("height", "<i4")]
    return np.dtype([*picture, *place, *target])


# Reading


def read_shards(root: str | Path, task: str) -> dict[str, Pictures]:
    """Read a set in shards, from a folder or `s3://bucket/folder`, for the task of its targets."""
    folder = str(root if str(root).startswith(store.S3) else Path(root).absolute()).rstrip("/")
    pictures, digests, sets = {}, {}, set()
    for split in SPLITS:
        place = f"{folder}/{split}.json"
        index = read_index(place)
        try:
            kind, sums = index["kind"], index["tables"]
            targets_of = "classification" if task == "generation" else task
            reading.check_task(str(root), targets_of, TASKS[kind])
            rows = open_table(f"{folder}/{split}.npy", sums[f"{split}.npy"])
            objects = None
            if kind in OBJECTS:
                name = f"{split}.objects.npy"
                objects = open_table(f"{folder}/{name}", sums[name])
            pictures[split] = as_pictures(folder, index, rows, objects)
            for table in (rows, objects):  # pages that were read for the checks count as memory
                if isinstance(table, np.memmap) and isinstance(table.base, mmap):
                    table.base.madvise(MADV_DONTNEED)
        except UserError:
            raise
        except Exception as error:  # an index of a stranger is wrong in many ways
            raise UserError(f"{place}: not an index of shards: {error!r}") from error
        digests[split] = rows["sha256"]
        sets.add((index["data_hash"], kind))
    if task == "generation" and kind == "labels":
        raise UserError(f"{root}: {SEVERAL_LABELS}")
    if len(sets) > 1:
        raise UserError(f"{root}: {listing(SPLITS)} are of different sets")
    warn_of_twins(digests, lambda split, index: pictures[split].files[index].name)
    return pictures


def open_table(place: str, digest: str) -> Rows:
    """Map a table into memory, or read the table from a store.

    Raises:
        UserError: missing or not readable; or the store does not answer.
        ValueError: not a table of NumPy, or another table than the index was written for.
    """
    remote = place.startswith(store.S3)
    with io.BytesIO(store.read(place)) if remote else Path(place).open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != digest:
            raise ValueError(f"{place}: not the table that belongs to this index")
        content.seek(0)
        if remote:
            return np.lib.format.read_array(content, allow_pickle=False)
    return np.lib.format.open_memmap(place, "r")


def as_pictures(
    folder: str, index: Mapping[str, Any], rows: Rows, objects: Rows | None = None
) -> Pictures:
    """Return the `Pictures` of an index and its tables.

    Raises:
        ValueError: or another error, if they were not written by `shard.py`.
        UserError: an archive is too large.
    """
    names, kind = index["classes"], index["kind"]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("classes: names belong there")
    if not re.fullmatch("[0-9a-f]{64}", index["data_hash"]):  # becomes the name of a file
        raise ValueError("data_hash: a SHA-256 belongs there")
    archives = [(f"{folder}/{name}", int(size)) for name, size in index["shards"]]
    for (name, _), (path, length) in zip(index["shards"], archives, strict=True):
        if not ARCHIVE.fullmatch(name):
            raise ValueError(f"{name!r}: not a name that shard.py writes")
        if length > store.MAX_SHARD:
            raise UserError(
                f"{path}: {length:,} bytes; at most {store.MAX_SHARD:,} are read of a shard"
            )
    if rows.dtype != row_type(kind, rows.dtype["name"].itemsize):
        raise ValueError(f"a table of {rows.dtype}")
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        b"".join(part["name"].tolist()).decode()  # names are text; who writes files checks them
        check_positions(part["shard"], len(archives), "shards")
        if min(part["width"].min(), part["height"].min()) < 1:
            raise ValueError("pictures without width or height")
    counts = np.array(index["counts"], np.int64).reshape(len(names))
    targets: Any
    if objects is not None:
        if objects.dtype != OBJECTS[kind]:
            raise ValueError(f"a table of {objects.dtype}")
        check_positions(objects["label"], len(names), "classes")
        targets = Lazy(rows, partial(objects_of, objects=objects))
    elif kind == "mask":
        targets = Lazy(rows, partial(member_of, archives=archives, mask=True))
    else:
        check_positions(rows["label"], len(names), "classes")
        targets = array("i", rows["label"].tobytes())
    return Pictures(
        Path(folder),
        Lazy(rows, partial(member_of, archives=archives)),
        targets,
        names,
        shards=array("i", rows["shard"].tobytes()),
        counts=counts,
        data_hash=index["data_hash"],
    )


def check_positions(numbers: NDArray[np.int32], count: int, what: str) -> None:
    """Raise a `ValueError` if a number is not a position in a list of `count` items."""
    wrong = numbers[(numbers < 0) | (numbers >= count)]
    if wrong.size:
        raise ValueError(f"number {wrong[0]} of {count} {what}")


def member_of(row: Any, archives: Archives, mask: bool = False) -> Member:
    """Return the file of an image in its archive, or the file of its mask."""
    shard, name, width, height, *places = row.item()
    start, size, digest = places[3:] if mask else places[:3]
    name = f"mask of {name.decode()}" if mask else name.decode()
    path, whole = archives[shard]
    return Member(path, whole, name, start, size, digest.hex(), width, height)


def objects_of(row: Any, objects: Rows) -> Boxes | tuple[int, ...]:
    """Return the boxes of an image, or its labels if the objects have no boxes."""
    own = objects[row["first"] : row["first"] + row["objects"]]
    if objects.dtype == OBJECTS["labels"]:
        return tuple(own["label"].tolist())
    return Boxes(own["box"].copy(), own["label"].astype(np.int64), own["ignored"].copy())


def read_index(place: str) -> dict[str, Any]:
    """Read the description of an index, `<split>.json`."""
    try:
        index = json.loads(store.read(place))
    except UserError as error:
        raise UserError(f"{error}; data=shards reads what shard.py wrote, {AS_IN}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not an index of shards: {error}") from error
    version = index.get("format") if isinstance(index, dict) else None
    if version != FORMAT:
        raise UserError(
            f"{place}: not an index of shards as this version reads them: it has format {version}, "
            f"and not {FORMAT}; write the set again, {AS_IN}"
        )
    return dict(index)


# Writing


def write_shards(splits: Mapping[str, Resized], data_hash: str, output: str, most: int) -> None:
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
        _write_splits(splits, data_hash, output, most)
    else:
        ours = []

        def fill(folder: Path) -> None:
            ours.append(folder)
            _write_splits(splits, data_hash, str(folder), most)

        make_once(Path(output), fill)
        if not ours:  # another process wrote the same output meanwhile
            refuse_existing(output)


def refuse_existing(output: str) -> None:
    """Raise a `UserError` if the output exists; called early too, before a set is opened."""
    remote = output.startswith(store.S3)
    taken = s3.exists(f"{output}/train.json") if remote else os.path.lexists(output)
    if taken:
        raise UserError(f"output={output}: there is one already; remove it, or choose another")


def _write_splits(splits: Mapping[str, Resized], data_hash: str, folder: str, most: int) -> None:
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


def _archives(items: Iterator[Item], most: int) -> Iterator[Tar]:
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
