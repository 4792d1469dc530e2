"""Where the bytes of a set lie: a folder, or an S3-compatible store, `s3://bucket/folder`.

boto3 and not fsspec: s3fs has an event loop in a thread. The forked workers of a DataLoader inherit
the loop without the thread, and wait for ever (https://github.com/fsspec/s3fs/issues/914). boto3
finds the store and the keys where Amazon's own tools do: `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`,
`~/.aws`.
"""

import os
import re
from collections import OrderedDict
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from nano_cv.errors import UserError, first_line

S3 = "s3://"
TRIES = 3  # to read an answer; boto3 itself repeats what fails before there is one
HELD = 5  # shards in memory, of each process
MAX_SHARD = 2 * 1024**3  # bytes: a shard is read whole


def located(root: str | Path) -> str | Path:
    """The root of a set: a URL as it is, a path with its `~` resolved.

    Raises:
        UserError: a URL of something else, or a slip in one.
    """
    if re.match(r"(?!s3://)[a-z0-9]{2,}:/", str(root)):
        raise UserError(f"{root}: neither a folder nor s3://BUCKET/FOLDER")
    return str(root) if str(root).startswith(S3) else Path(root).expanduser()


def read(place: str, start: int = 0, size: int | None = None) -> bytes:
    """Bytes of a file or an object, from `start` on, all of them or `size`.

    Raises:
        UserError: not there, not readable, shorter than that; the store does not answer.
    """
    if place.startswith(S3):
        content = _fetch(place, start, size)
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
    """Write a file or an object.

    Raises:
        UserError: the store does not take it.
        OSError: the disk does not.
    """
    if not place.startswith(S3):
        Path(place).write_bytes(content)
        return
    _ask(place, "put_object", Key=_parts(place)[1], Body=content)


def exists(place: str) -> bool:
    """Whether the file or object is there."""
    if not place.startswith(S3):
        return Path(place).exists()
    key = _parts(place)[1]
    found = _ask(place, "list_objects_v2", Prefix=key, MaxKeys=1)
    return any(one["Key"] == key for one in found.get("Contents", ()))


class Member(NamedTuple):
    """A picture or mask in a shard, used like a `Path`.

    Attributes:
        shard: path or URL of the tar archive.
        shard_size: in bytes.
        name: of the picture, relative to the root of the set that it came from.
        start: where in the shard its bytes begin.
        size: how many there are.
        sha256: of them.
        width: of the upright picture, in pixels.
        height: likewise.
    """

    shard: str
    shard_size: int
    name: str
    start: int
    size: int
    sha256: str
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    def read_bytes(self) -> bytes:
        """Its bytes; see `Held`."""
        return HOLDING.read(self)


class Held:
    """The last few shards that this process has read, in memory.

    Who asks for one picture of a shard gets its bytes alone; who asks for a second one will want
    more, and a store gives a whole shard in the time of a few pictures.
    """

    def __init__(self) -> None:
        self.shards: OrderedDict[str, bytes] = OrderedDict()
        self.asked: set[str] = set()
        self.lock = Lock()
        # A worker may be forked while a thread holds the lock.
        os.register_at_fork(after_in_child=lambda: setattr(self, "lock", Lock()))

    def read(self, member: Member) -> bytes:
        """The bytes of a member."""
        shard, start, size = member.shard, member.start, member.size
        with self.lock:
            if shard in self.asked:
                if shard not in self.shards:
                    while len(self.shards) >= HELD:
                        self.shards.popitem(last=False)
                    self.shards[shard] = read(shard, 0, member.shard_size)
                self.shards.move_to_end(shard)
                return self.shards[shard][start : start + size]
            self.asked.add(shard)
        return read(shard, start, size)


HOLDING = Held()
File = Path | Member


def size(file: File) -> int:
    """In bytes."""
    return file.size if isinstance(file, Member) else file.stat().st_size


def stamp(file: File) -> str:
    """A text that changes when the file does."""
    if isinstance(file, Member):
        return file.sha256
    status = os.stat(file)
    path = file if file.is_absolute() else file.absolute()
    return f"{path}\0{status.st_size}\0{status.st_mtime_ns}"


def _parts(place: str) -> tuple[str, str]:
    bucket, _, key = place.removeprefix(S3).partition("/")
    return bucket, key


def _fetch(place: str, start: int, size: int | None) -> bytes:
    end = "" if size is None else start + size - 1
    options = {"Range": f"bytes={start}-{end}"} if start or size is not None else {}
    return bytes(_ask(place, "get_object", Key=_parts(place)[1], **options)["Body"])


def _ask(place: str, method: str, **options: Any) -> dict[str, Any]:
    """What the store answers, a `Body` as bytes; asked again where one breaks off."""
    bucket, client = _parts(place)[0], _client(os.getpid())
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

    for left in reversed(range(TRIES)):
        try:
            answer: dict[str, Any] = getattr(client, method)(Bucket=bucket, **options)
            try:
                return answer | {"Body": answer["Body"].read()} if "Body" in answer else answer
            except (HTTPClientError, IncompleteReadError):
                if not left:
                    raise
        except ClientError as error:
            raise UserError(f"{place}: {first_line(error)}") from error
        except BotoCoreError as error:
            raise UserError(
                f"{place}: {first_line(error)}; the store and its keys are taken from "
                "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws"
            ) from error
    raise AssertionError("the last try returns or raises")


@cache
def _client(process: int) -> Any:
    """One for each process: connections do not outlive a fork."""
    try:
        import boto3
    except ImportError as error:
        raise UserError("s3:// needs boto3; type: poetry install --extras s3") from error
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.client("s3")
    except (BotoCoreError, ValueError) as error:  # no such profile; an address without http://
        raise UserError(f"s3://: {first_line(error)}") from error
