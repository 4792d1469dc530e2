"""Progress bars of long work with the time left, which appear in a terminal only."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

T = TypeVar("T")


def track(items: Iterable[T], total: int | None, description: str) -> Iterator[T]:
    """Yield `items`, with a progress bar on standard error; `total` may be unknown."""
    with Progress(disable=not sys.stderr.isatty(), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


@contextmanager
def bytes_of(total: int | None, done: int, description: str) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with each number of received bytes; `total` may be unknown."""
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(description, total=total, completed=done)
        yield lambda count: progress.advance(task, count)
