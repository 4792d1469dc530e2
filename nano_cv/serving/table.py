"""A live table of the models in the terminal: `python serve.py watch=true`."""

import asyncio
import logging
import sys
import time
from collections import Counter, deque
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from nano_cv.serving.backend import Backend
from nano_cv.serving.metrics import COUNTERS

SECONDS = 1
EVENTS = 8  # lines of the log under the table
COLUMNS = ("inferences", "failed", "a second", "batch", "queue ms", "compute ms")
Figures = dict[str, Counter[str]]  # the counters of each model, its versions together


class _Last(logging.Handler):
    """Keeps the last lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=EVENTS)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{time.strftime('%H:%M:%S')} {record.getMessage()}")


async def show(backend: Backend) -> None:
    """Draw the table once a second, in place of the log on the screen."""
    root, last = logging.getLogger(), _Last()
    screens = [item for item in root.handlers if getattr(item, "stream", None) is sys.stdout]
    for handler in screens:
        root.removeHandler(handler)
    root.addHandler(last)
    before: Figures = {}
    then = time.monotonic()
    try:
        with Live(console=Console(), auto_refresh=False) as live:
            while True:
                now = summed(await backend.figures())
                seconds, then = time.monotonic() - then, time.monotonic()
                shown = table(backend, before, now, seconds)
                live.update(Group(shown, *last.lines), refresh=True)
                before = now
                await asyncio.sleep(SECONDS)
    finally:
        root.removeHandler(last)
        for handler in screens:
            root.addHandler(handler)


def summed(figures: list[Any]) -> Figures:
    """The counters of each model, its versions together."""
    found: Figures = {}
    for one in figures:
        counters = found.setdefault(one.name, Counter())
        counters.update({name: int(read(one)) for name, read in COUNTERS.items()})
    return found


def table(backend: Backend, before: Figures, now: Figures, seconds: float) -> Table:
    """One line a model; the rates and times are of the `seconds` between two readings."""
    title = f"{backend.state}, Triton started again {backend.restarts} times"
    shown = Table(title=title, title_justify="left", header_style="bold")
    shown.add_column("model")
    shown.add_column("state")
    for name in COLUMNS:
        shown.add_column(name, justify="right")
    shown.add_column("reason", style="dim", max_width=60)
    for name, model in sorted(backend.models.items()):
        total = now.get(name, Counter())
        # Triton counts from zero when it is started again.
        step = {key: max(total[key] - before.get(name, Counter())[key], 0) for key in total}
        requests, runs = step.get("request_success", 0), step.get("exec_count", 0)
        times = [
            f"{step.get(key, 0) / requests / 1000:.2f}" if requests else "-"
            for key in ("queue_duration_us", "compute_infer_duration_us")
        ]
        shown.add_row(
            name,
            f"[{'green' if model.state == 'ready' else 'red'}]{model.state}[/]",
            str(total["count"]),
            str(total["request_failure"]),
            f"{step.get('count', 0) / seconds:.0f}" if before else "-",
            f"{step.get('count', 0) / runs:.1f}" if runs else "-",
            *times,
            model.reason,
        )
    return shown
