"""Prints the end of a script's output: the table of a report, metrics, and where files are."""

from collections.abc import Mapping, Sequence
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from nano_cv.errors import say
from nano_cv.evaluation.tables import WORDS
from nano_cv.evaluation.tracking import Logger

MAX_COLUMNS = 10  # columns of a table
MAX_ROWS = 20  # rows of a table
MAX_FIGURES = 20  # figures of a kind, such as `test/recall/<class>`, that are printed
WORST_SHOWN = 5  # if there are more, only so many are printed, the worst


def print_rows(rows: Sequence[Mapping[str, Any]], remarks: Sequence[str]) -> None:
    """Print the first rows of a report as a table, how many more there are, and its remarks."""
    more = [f"and {len(rows) - MAX_ROWS:,} more rows"] if len(rows) > MAX_ROWS else []
    say("\n".join([format_table(rows[:MAX_ROWS]).rstrip("\n"), *more, *remarks]))


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows in columns; if there are very many classes, only the most probable."""
    heads = list(rows[0])
    if len(heads) > MAX_COLUMNS:
        words = [head for head in heads if head in WORDS]
        others = [head for head in heads if head not in WORDS]
        others.sort(key=lambda head: max(str(row[head]) for row in rows), reverse=True)
        heads = words + others[: MAX_COLUMNS - len(words)]
    lines = [heads, *([str(row[head]).replace("\n", "\\n") for head in heads] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def summarise(
    metrics: Mapping[str, float], places: Mapping[str, Path | str], logger: Logger
) -> None:
    """Print metrics, places and the files of the run in two columns, with relative paths."""
    rows = _figures(metrics)
    for name, place in places.items():
        here = Path.cwd()
        inside = isinstance(place, Path) and place.is_relative_to(here)
        rows.append((name, str(Path(place).relative_to(here) if inside else place)))
    run = Path(places["run"])
    written = sorted(
        [*run.glob("*.png"), *run.glob("*.csv"), *run.glob("*.json"), *run.glob("*.md")]
    )
    rows += [("", f"  {file.name}") for file in written]
    rows += logger.advice().items()
    width = max(len(name) for name, _ in rows)
    say("\n".join(f"{name:<{width}}  {text}" for name, text in rows))


def _figures(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Names and values of metrics; only the worst if a kind, `test/recall/...`, has very many."""
    kinds: dict[str, list[str]] = {}
    for name in metrics:
        kind = "/".join(name.split("/")[:2]) if name.count("/") > 1 else name
        kinds.setdefault(kind, []).append(name)
    rows = []
    for kind, names in kinds.items():
        few = len(names) <= MAX_FIGURES
        worst = sorted(names, key=lambda name: (isnan(metrics[name]), metrics[name]))[:WORST_SHOWN]
        rows += [(name, _short(metrics[name])) for name in (names if few else worst)]
        if not few:
            rows.append((f"{kind}/...", f"and {len(names) - WORST_SHOWN} more, in metrics.json"))
    return rows


def _short(value: float) -> str:
    if not isfinite(value):
        return "unknown"
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
