"""Reads and writes files of a data set, in a folder or in a store, `s3://bucket/folder`."""

import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from nano_cv.errors import UserError

S3 = "s3://"
Item = TypeVar("Item")
MAX_SHARDS = 5  # shards in memory per process
MAX_SHARD = 2 * 1024**3  # bytes; limited, because a shard is read whole
ASKED: set[str] = set()  # shards of which this process has read an image
LOCK = Lock()  # so that threads do not read the same shard at once
# A worker must not be forked while a thread holds the lock, which nobody would release there.
os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)


def located(root: str | Path) -> str | Path:
    """Return a set's root, an `s3://` URL or a path with its `~` resolved; refuses other URLs."""
    if re.match(r"(?!s3://)[a-z0-9]{2,}:/", str(root)):
        raise UserError(f"{root}: neither a folder nor s3://BUCKET/FOLDER")
    return str(root) if str(root).startswith(S3) else Path(root).expanduser()


def read(place: str, start: int = 0, size: int | None = None) -> bytes:
    """Read a file or an object from byte `start` on, to its end or `size` bytes.

    Raises:
        UserError: missing, not readable, or too short; or the store does not answer.
    """
    if place.startswith(S3):
        from nano_cv.data import s3

        end = "" if size is None else start + size - 1
        part = {"Range": f"bytes={start}-{end}"} if start or size is not None else {}
        content = bytes(s3.ask(place, "get_object", **part)["Body"])
    else:
        try:
            with open(place, "rb") as file:
                file.seek(start)
                content = file.read(size)
        except OSError as error:
            raise UserError(f"{place}: cannot be read: {error.strerror}") from error
    if size is not None and len(content) != size:
        raise UserError(f"{place}: cut short: {start + len(content):,} bytes, not {start + size:,}")
    return content


def write(place: str, content: bytes) -> None:
    """Write a file or an object; raises `OSError`, or `UserError` if the store refuses."""
    if place.startswith(S3):
        from nano_cv.data import s3

        s3.ask(place, "put_object", Body=content)
    else:
        Path(place).write_bytes(content)


@lru_cache(MAX_SHARDS - 1)  # one more is in memory while it is read
def whole_shard(shard: str, size: int) -> bytes:
    """Read a whole shard; the last few stay in memory."""
    return read(shard, 0, size)


class Member(NamedTuple):
    """Image or mask in a shard, used like a `Path`."""

    shard: str  # path or URL of the tar archive
    shard_size: int  # in bytes
    name: str  # path of the image, relative to the root of the original set
    start: int  # position in the shard of the first byte
    size: int  # in bytes
    sha256: str
    width: int  # of the upright image, in pixels
    height: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    def read_bytes(self) -> bytes:
        """Read the bytes of the image or mask.

        The first request for an image of a shard reads only the image's bytes. The second request
        reads the whole shard, as more will follow, and a shard takes the time of a few images.
        """
        with LOCK:
            if self.shard in ASKED:
                whole = whole_shard(self.shard, self.shard_size)
                return whole[self.start : self.start + self.size]
            ASKED.add(self.shard)
        return read(self.shard, self.start, self.size)


class Lazy(Sequence[Item]):
    """Sequence of what `make` makes of each of the `rows`, when it is asked for."""

    def __init__(self, rows: Any, make: Callable[[Any], Item]) -> None:
        self.rows, self.make = rows, make

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        """Return an item, or for a slice another lazy sequence."""
        rows = self.rows[index]
        return Lazy(rows, self.make) if isinstance(index, slice) else self.make(rows)


File = Path | Member


def texts_of(files: Sequence[File]) -> Sequence[File | str]:
    """Return files as texts if that is how a lazy sequence holds them; quicker than as `Path`."""
    return files.rows if isinstance(files, Lazy) and files.make is Path else files


def size(file: File) -> int:
    """Return the size of a file in bytes."""
    return file.size if isinstance(file, Member) else file.stat().st_size


def stamp(file: File | str, folder: str) -> str:
    """Return a text that changes whenever the file changes; `folder` is the working directory."""
    if isinstance(file, Member):
        return file.sha256
    text = str(file)
    if not text.startswith(os.sep):
        text = os.path.join(folder, text)
    try:
        status = os.stat(file)
    except OSError as error:  # as of a link that leads nowhere; decoding reports it with others
        return f"{text}\0{error.strerror}"
    return f"{text}\0{status.st_size}\0{status.st_mtime_ns}"
