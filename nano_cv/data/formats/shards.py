"""Reader of shards: tar archives of some hundred images, in a folder or an S3-compatible store.

    train.json  train-00000.tar  train-00001.tar ...  val.json  val-00000.tar  test.json ...

A store, or the shared disk of a cluster, delivers a large file much faster than many small files,
and the training machine needs no disk space for the set. The archives have the layout of WebDataset
(https://github.com/webdataset/webdataset), `00000012.jpg` beside `00000012.cls`, `.json` or
`.mask.png`, so other programs can read them too. Beside the archives, an index per split has the
position of each image, so that images can be read by number, as in every other format.

This package does not read shards by WebDataset or litdata: WebDataset runs commands that stand in a
URL, and both unpickle content of archives.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nano_cv.data import store
from nano_cv.data.formats import reading
from nano_cv.data.formats.splitting import SEVERAL
from nano_cv.data.pictures import COUNTED, SPLITS, Boxes, Pictures
from nano_cv.data.store import Member
from nano_cv.data.targets import are_tags
from nano_cv.errors import UserError, listing

FORMAT = 1  # raise it when the index changes
ARCHIVE = re.compile(r"[\w.-]+\.tar")  # name of an archive in the folder of the index
PICTURE = re.compile(r"(?!/)[^\\\x00-\x1f\x7f]+")  # relative path; no `\`, which splits on Windows
KEYS = ("format", "task", "classes", "counts", "shards", "pictures")


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
    found = {}
    for split, index in indices.items():
        reading.check_task(str(root), targets_of(task), index["task"])
        try:
            found[split] = as_pictures(folder, index)
        except (TypeError, ValueError, OverflowError, KeyError, IndexError) as error:
            place = f"{folder}/{split}.json"
            raise UserError(f"{place}: not an index of shards: {error!r}") from error
    if task == "generation" and are_tags(found["train"].targets):
        raise UserError(f"{root}: {SEVERAL}")
    return found


def as_pictures(folder: str, index: Mapping[str, Any]) -> Pictures:
    """Return the `Pictures` of an index.

    Raises:
        ValueError: or another error, if the index was not written by `shard.py`.
        UserError: an archive is too large.
    """
    names = index["classes"]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("classes: names belong there")
    if twice := reading.repeated(names):
        raise ValueError(f"classes: the same twice: {listing(twice)}")
    for name, _ in index["shards"]:
        check_name(name, ARCHIVE)
    archives = [(f"{folder}/{name}", int(size)) for name, size in index["shards"]]
    for name, length in archives:
        if length > store.MAX_SHARD:
            raise UserError(
                f"{name}: {length:,} bytes; at most {store.MAX_SHARD:,} are read of a shard"
            )
    files, targets = [], []
    for shard, name, start, size, digest, width, height, target in index["pictures"]:
        check_name(name, PICTURE)
        if shard not in range(len(archives)):
            raise ValueError(f"{name}: there is no shard {shard}")
        files.append(member(archives[shard], name, (start, size, digest), width, height))
        labels: Any = [target]
        if isinstance(target, dict):
            target = as_boxes(target)
            labels = target.labels
        elif isinstance(target, list) and index["task"] == "classification":
            target = labels = tuple(map(int, target))
        elif isinstance(target, list):
            target, labels = member(archives[shard], f"mask of {name}", target, width, height), []
        if isinstance(target, float) or not all(one in range(len(names)) for one in labels):
            raise ValueError(f"{name} has label {listing(labels)} of {len(names)} classes")
        targets.append(target)
    shards = [row[0] for row in index["pictures"]]
    counts = np.array(index["counts"], np.int64).reshape(len(names))
    return Pictures(Path(folder), files, targets, names, shards=shards, counts=counts)


def as_boxes(target: Mapping[str, Any]) -> Boxes:
    """Return the boxes of an image in an index.

    Without a list `ignored`, which older versions did not write, all boxes count.
    """
    boxes = np.array(target["boxes"], np.float32).reshape(-1, 4)
    labels = np.array(target["labels"], np.int64).reshape(len(boxes))
    ignored = target.get("ignored", [COUNTED] * len(boxes))
    return Boxes(boxes, labels, np.array(ignored, np.uint8).reshape(len(boxes)))


def check_name(name: Any, allowed: re.Pattern[str]) -> None:
    """Check that a name, which may come from a stranger, does not lead out of its folder.

    Raises:
        ValueError: the name could lead out of the folder, or is no text.
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    wrong = any(part in ("", ".", "..") or len(part.encode()) > 200 for part in parts)
    if wrong or not allowed.fullmatch(name):
        raise ValueError(f"{name!r}: not a name that shard.py writes")


def member(
    archive: tuple[str, int], name: str, place: Sequence[Any], width: Any, height: Any
) -> Member:
    """Return a file in an archive; `place` is its start, its length in bytes, and its SHA-256.

    Raises:
        ValueError: the file would reach out of the archive, or the image has no width or height.
    """
    (path, whole), (start, size, digest) = archive, place
    start, size, width, height = int(start), int(size), int(width), int(height)
    if min(start, size) < 0 or start + size > whole or min(width, height) < 1:
        raise ValueError(f"{name}: bytes {start} to {start + size} of {whole}, {width}x{height}")
    return Member(path, whole, name, start, size, str(digest), width, height)


def read_index(place: str) -> dict[str, Any]:
    """Read an index, `<split>.json`."""
    try:
        index: dict[str, Any] = json.loads(store.read(place))
        missing = [key for key in KEYS if key not in index]
    except UserError as error:
        raise UserError(
            f"{error}; data=shards reads what shard.py wrote, as in: python shard.py "
            "data=folder data.root=~/photos output=~/shards"
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{place}: not an index of shards: {error}") from error
    if missing or index["format"] != FORMAT:
        wrong = f"has no '{missing[0]}'" if missing else f"has format {index['format']}"
        raise UserError(f"{place}: not an index of shards as this version reads them: it {wrong}")
    return index


def targets_of(task: str) -> str:
    """Return the task whose targets a task uses: generation uses those of classification."""
    return "classification" if task == "generation" else task
