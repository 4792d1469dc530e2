"""Many pictures in threads, in their order; those that cannot be used are named all at once."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nano_cv.data.images import ImageError
from nano_cv.data.progress import track
from nano_cv.errors import UserError, listing

AT_ONCE = 64  # in memory before they are taken
Given = TypeVar("Given")
Made = TypeVar("Made")


class PicturesError(UserError):
    """Some pictures cannot be used.

    Attributes:
        broken: why, by their position among all.
    """

    def __init__(self, broken: Mapping[int, str], count: int) -> None:
        self.broken = broken
        reasons = listing(broken.values(), separator="\n  ")
        super().__init__(
            f"{len(broken)} of {count} pictures cannot be used; mend or remove them:\n  {reasons}"
        )


def prepared(
    items: Sequence[Given], prepare: Callable[[Given], Made], description: str
) -> Iterator[Made]:
    """What `prepare` makes of each item, in their order, with progress.

    Raises:
        PicturesError: after the last one, if `prepare` raised an `ImageError` for some; names them.
    """

    def attempt(item: Given) -> Made | ImageError:
        try:
            return prepare(item)
        except ImageError as error:
            return error

    def in_threads() -> Iterator[Made | ImageError]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(items), AT_ONCE):
                yield from pool.map(attempt, items[start : start + AT_ONCE])

    broken = {}
    for position, result in enumerate(track(in_threads(), len(items), description)):
        if isinstance(result, ImageError):
            broken[position] = str(result)
        else:
            yield result
    if broken:
        raise PicturesError(broken, len(items))
