"""Reader of shards: tar archives of some hundred images, in a folder or an S3-compatible store.

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
import re
from array import array
from collections.abc import Mapping
from functools import partial
from mmap import ACCESS_READ, MADV_DONTNEED, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import store
from nano_cv.data.formats import reading
from nano_cv.data.formats.splitting import SEVERAL
from nano_cv.data.pictures import SPLITS, Boxes, Pictures, warn_of_twins
from nano_cv.data.store import Lazy, Member
from nano_cv.errors import UserError, listing

FORMAT = 2  # raise it when the index changes
KEYS = ("format", "kind", "classes", "counts", "data_hash", "shards", "tables")
AS_IN = "as in: python shard.py data=folder data.root=~/photos output=~/shards"
AT_ONCE = 65_536  # images whose rows are checked at once
ARCHIVE = re.compile(r"(?!\.)[\w.-]+\.tar")  # name of an archive in the folder of the index
# What no name of an image has: control characters; `\`, which splits on Windows; parts that are too
# long for a file name; and parts that are empty, `.` or `..`, because they lead out of a folder.
UNSAFE = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f\\]|[^/\n]{201}|(?:^|/)\.{0,2}(?:/|$)", re.MULTILINE)
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


def row_type(kind: str, longest: int) -> np.dtype[np.void]:
    """Return the columns of the first table, for the kind of its targets.

    Args:
        kind: a key of `TASKS`.
        longest: length of the longest name in bytes.
    """
    target = {
        "label": [("label", "<i4")],
        "mask": [("mask_start", "<i8"), ("mask_size", "<i8"), ("mask_sha256", "V32")],
    }.get(kind, [("first", "<i8"), ("objects", "<i8")])  # position in the second table, and number
    place = [("start", "<i8"), ("size", "<i8"), ("sha256", "V32")]  # in the archive, in bytes
    picture = [("shard", "<i4"), ("name", f"S{longest}"), ("width", "<i4"), ("height", "<i4")]
    return np.dtype([*picture, *place, *target])


def names_of_tables(split: str, kind: str) -> list[str]:
    """Return the names of the files of the first table, and of the second if there is one."""
    return [f"{split}.npy", f"{split}.objects.npy"][: 1 + (kind in OBJECTS)]


def read_shards(root: str | Path, task: str) -> dict[str, Pictures]:
    """Read a set in shards, for the task of its targets.

    Args:
        root: folder, or `s3://bucket/folder`.
        task: the task, for which the set must have targets; see `targets_of`.

    Raises:
        UserError: an index is missing or malformed, or the targets are of another task.
    """
    folder = str(root if str(root).startswith(store.S3) else Path(root).absolute()).rstrip("/")
    indices = {split: read_index(f"{folder}/{split}.json") for split in SPLITS}
    contents: list[bytes | mmap] = []
    found, digests = {}, {}
    for split, index in indices.items():
        try:
            kind = index["kind"]
            reading.check_task(str(root), targets_of(task), TASKS[kind])
            names = names_of_tables(split, kind)
            own = [mapped(f"{folder}/{name}") for name in names]
            for name, content in zip(names, own, strict=True):
                if hashlib.sha256(content).hexdigest() != index["tables"][name]:
                    raise ValueError(f"{name}: not the table that belongs to this index")
            rows, *objects = map(as_table, own)
            found[split] = as_pictures(folder, index, rows, *objects)
        except (TypeError, ValueError, OverflowError, KeyError, IndexError) as error:
            place = f"{folder}/{split}.json"
            raise UserError(f"{place}: not an index of shards: {error!r}") from error
        digests[split] = rows["sha256"]
        contents += own
    if task == "generation" and indices["train"]["kind"] == "labels":
        raise UserError(f"{root}: {SEVERAL}")
    if len({(index["data_hash"], index["kind"]) for index in indices.values()}) > 1:
        raise UserError(f"{root}: {listing(SPLITS)} are of different sets")
    warn_of_twins(digests, lambda split, index: found[split].files[index].name)
    for content in contents:
        if isinstance(content, mmap):  # pages that were read for the checks count as memory
            content.madvise(MADV_DONTNEED)
    return found


def mapped(place: str) -> bytes | mmap:
    """Map a file into memory, or read an object.

    Raises:
        UserError: missing or not readable; or the store does not answer.
        ValueError: the file is empty.
    """
    if place.startswith(store.S3):
        return store.read(place)
    try:
        with open(place, "rb") as file:
            return mmap(file.fileno(), 0, access=ACCESS_READ)
    except OSError as error:
        raise UserError(f"{place}: cannot be read: {error.strerror}") from error


def as_table(content: bytes | mmap) -> Rows:
    """Return the rows of a table, from the bytes of a `.npy` file, without copying them.

    Raises:
        ValueError: not such a file.
    """
    head = io.BytesIO(content[:10_000])
    try:
        np.lib.format.read_magic(head)
        _, _, dtype = np.lib.format.read_array_header_1_0(head)
    except Exception as error:  # the header is Python's text of a dict, and fails in many ways
        raise ValueError(f"no table of NumPy: {error!r}") from error
    return np.frombuffer(content, np.uint8)[head.tell() :].view(dtype)


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
    if twice := reading.repeated(names):
        raise ValueError(f"classes: the same twice: {listing(twice)}")
    if not re.fullmatch("[0-9a-f]{64}", index["data_hash"]):
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
    if objects is not None:
        if objects.dtype != OBJECTS[kind]:
            raise ValueError(f"a table of {objects.dtype}")
        if (unknown := objects["label"][~within(objects["label"], len(names))]).size:
            raise ValueError(f"objects have label {unknown[0]} of {len(names)} classes")
    for start in range(0, len(rows), AT_ONCE):
        check_rows(rows[start : start + AT_ONCE], archives, len(names), objects)
    counts = np.array(index["counts"], np.int64).reshape(len(names))
    if kind == "label":
        found = np.bincount(rows["label"], minlength=len(names))
        if found.tolist() != counts.tolist():
            raise ValueError("counts: not those of the table")
    targets: Any
    if objects is not None:
        targets = Lazy(rows, partial(objects_of, objects=objects))
    elif kind == "mask":
        targets = Lazy(rows, partial(member_of, archives=archives, mask=True))
    else:
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


def check_rows(rows: Rows, archives: Archives, classes: int, objects: Rows | None) -> None:
    """Check rows of a table, which may come from a stranger.

    Raises:
        ValueError: a name could lead out of a folder, a file would reach out of its archive, an
            image has no width or height, or there is no such archive, class or object.
    """
    check_names(rows["name"].tolist())

    def refuse(wrong: NDArray[np.bool_], fault: str) -> None:
        if wrong.any():
            first = rows[wrong.argmax()]
            raise ValueError(f"{first['name'].decode()}: {fault.format(first)}")

    refuse(~within(rows["shard"], len(archives)), "there is no shard {0[shard]}")
    whole = np.array([size for _, size in archives], np.int64)[rows["shard"]]
    columns = rows.dtype.names or ()
    for of in ("", "mask_") if "mask_start" in columns else ("",):
        start, size = rows[f"{of}start"], rows[f"{of}size"]
        fault = f"{{0[{of}size]}} bytes from byte {{0[{of}start]}} on reach out of the shard"
        refuse((start < 0) | (size < 0) | (size > whole) | (start > whole - size), fault)
    refuse(np.minimum(rows["width"], rows["height"]) < 1, "{0[width]}x{0[height]} pixels")
    if "label" in columns:
        refuse(~within(rows["label"], classes), f"label {{0[label]}} of {classes} classes")
    if objects is not None:
        first, count = rows["first"], rows["objects"]
        wrong = (first < 0) | (count < 0) | (count > len(objects)) | (first > len(objects) - count)
        refuse(wrong, f"objects {{0[first]}} and on, of {len(objects)}")


def within(numbers: NDArray[np.int32], count: int) -> NDArray[np.bool_]:
    """Return whether each number is a position in a list of `count` items."""
    return (numbers >= 0) & (numbers < count)


def check_names(names: list[bytes]) -> None:
    """Check that names of images are text, and do not lead out of the folder of the set.

    Raises:
        ValueError: one of them is not, or does; the message has its name.
    """
    lines = b"\n".join(names)  # of all names together, as a call for each takes ten times as long
    lines.decode()
    if UNSAFE.search(lines) or lines.count(b"\n") != len(names) - 1:
        wrong = next(name for name in names if UNSAFE.search(name) or b"\n" in name)
        raise ValueError(f"{wrong.decode()!r}: not a name that shard.py writes")


def member_of(row: Any, archives: Archives, mask: bool = False) -> Member:
    """Return the file of an image in its archive, or the file of its mask."""
    shard, name, width, height, *places = row.item()
    start, size, digest = places[3:] if mask else places[:3]
    name = f"mask of {name.decode()}" if mask else name.decode()
    path, whole = archives[shard]
    return Member(path, whole, name, start, size, digest.hex(), width, height)


def objects_of(row: Any, objects: Rows) -> Boxes | tuple[int, ...]:
    """Return the boxes of an image, or its labels if the objects have no boxes."""
    some = objects[row["first"] : row["first"] + row["objects"]]
    if objects.dtype == OBJECTS["labels"]:
        return tuple(some["label"].tolist())
    return Boxes(some["box"].copy(), some["label"].astype(np.int64), some["ignored"].copy())


def read_index(place: str) -> dict[str, Any]:
    """Read the description of an index, `<split>.json`."""
    try:
        index: dict[str, Any] = json.loads(store.read(place))
        wrong = [f"no '{key}'" for key in KEYS if key not in index]
        if "format" in index and index["format"] != FORMAT:
            wrong = [f"format {index['format']}"]
    except UserError as error:
        raise UserError(f"{error}; data=shards reads what shard.py wrote, {AS_IN}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{place}: not an index of shards: {error}") from error
    if wrong:
        raise UserError(
            f"{place}: not an index of shards as this version reads them: it has {wrong[0]}; "
            f"write the set again, {AS_IN}"
        )
    return index


def targets_of(task: str) -> str:
    """Return the task whose targets a task uses: generation uses those of classification."""
    return "classification" if task == "generation" else task
