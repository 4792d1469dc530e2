"""Prepares many images in threads; reports all images that cannot be used in a single error."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nano_cv.data.images import ImageError
from nano_cv.data.progress import track
from nano_cv.errors import UserError, listing

AT_ONCE = 64  # results held in memory until the caller takes them
Given = TypeVar("Given")
Made = TypeVar("Made")


class PicturesError(UserError):
    """Some images cannot be used; `broken` has the reason for each, by its position in the list."""

    def __init__(self, broken: Mapping[int, str], count: int) -> None:
        self.broken = broken
        reasons = listing(broken.values(), separator="\n  ")
        super().__init__(
            f"{len(broken)} of {count} pictures cannot be used; mend or remove them:\n  {reasons}"
        )


def prepared(
    items: Sequence[Given], prepare: Callable[[Given], Made], description: str
) -> Iterator[Made]:
    """Yield `prepare(item)` of each item, in order, with a progress bar.

    Raises:
        PicturesError: after the last item, if `prepare` raised an `ImageError` for some items.
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
