"""Rows of a benchmark in turn, until their figures have settled.

A machine drifts by more than settings differ. So no row is measured after another: they take turns,
a short window each, and what is compared is medians of the same minutes.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from benchmarks.serving.load import Window
from nano_cv.data.progress import track

SETTLED, LAST = 0.1, 3  # spread of throughput and of p99 that passes, over this many windows


Row = TypeVar("Row")


class Figures(NamedTuple):
    """Medians over the windows of a row, and the spread of throughput from 1st to 3rd quartile."""

    throughput: float
    latency50: float
    latency90: float
    latency99: float
    lower: float
    upper: float
    windows: int


def take_turns(
    rows: Mapping[Row, Callable[[], Window]], least: int, most: int, description: str
) -> dict[Row, Figures]:
    """Measure each row in turn, `least` to `most` times, until all have settled."""
    windows: dict[Row, list[Window]] = {name: [] for name in rows}
    for number in track(range(most), most, description):
        for name, measure in rows.items():
            windows[name].append(measure())
        if number + 1 >= least and all(_settled(each) for each in windows.values()):
            break
    return {name: _figures(each) for name, each in windows.items()}


def _settled(windows: list[Window]) -> bool:
    """The medians no longer move when the last windows are left out."""
    now, before = _figures(windows), _figures(windows[:-LAST] or windows)
    return all(
        abs(getattr(now, key) / getattr(before, key) - 1) <= SETTLED / 2
        for key in ("throughput", "latency99")
    )


def _figures(windows: list[Window]) -> Figures:
    throughput, latency50, latency90, latency99 = np.median(windows, axis=0).tolist()
    lower, upper = np.percentile([window.throughput for window in windows], (25, 75)).tolist()
    return Figures(throughput, latency50, latency90, latency99, lower, upper, len(windows))
