"""Progress of long work: a bar with time left in a terminal, silence in a log file."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import Progress

T = TypeVar("T")


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Pass `items` on, counting them on standard error."""
    with Progress(disable=not sys.stderr.isatty(), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)
