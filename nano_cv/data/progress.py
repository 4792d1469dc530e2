"""Progress of long work: a bar with time left in a terminal, silence in a log file."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

T = TypeVar("T")


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Pass `items` on, counting them on standard error."""
    with Progress(disable=not sys.stderr.isatty(), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


@contextmanager
def bytes_of(total: int | None, done: int, description: str) -> Iterator[Callable[[int], None]]:
    """Yield what to call with the number of bytes that have come; `total` may be unknown."""
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(description, total=total, completed=done)
        yield lambda count: progress.advance(task, count)


@contextmanager
def reading(file: Path, description: str) -> Iterator[BinaryIO]:
    """A file to read, counting how far one has come."""
    with (
        Progress(disable=not sys.stderr.isatty(), transient=True) as progress,
        progress.open(file, "rb", description=description) as content,
    ):
        yield content
