"""CSV files, safe for spreadsheets."""

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.files import replacing

# The beginning of a formula, after blanks and invisible characters. Apostrophes may come before it,
# so that a cell which already begins with one gets another, and can be read back.
FORMULA = re.compile(
    r"'*(?:[\t\r]|[\s\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\ufeff]*[=+\-@\uff0b\uff0d\uff1d\uff20])"
)
# Columns with text, in this order.
WORDS = ("file", "label", "labels", "target", "label_set", "foreign")
# Arguments of `open`; a name that is not valid Unicode is written with escapes.
CSV: Any = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}


def cell(text: str) -> str:
    """Text for a spreadsheet: a formula gets an apostrophe. Not for numbers, such as `-1.5`."""
    return f"'{text}" if FORMULA.match(text) else text


def distinct(names: Sequence[str], reserved: Collection[str] = ()) -> list[str]:
    """The names, all different: ` (class)` is added if a name is `reserved` or came before."""
    unique: list[str] = []
    taken, ordinary = set(reserved), set(names)
    for name in names:
        free = name
        while free in taken or (free != name and free in ordinary):
            free += " (class)"
        taken.add(free)
        unique.append(free)
    return unique


def class_rows(classes: Sequence[str], columns: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Rows of `classes.csv`, one for each of K classes, from columns of numbers `[K]` by name.

    Fractions get four decimals. NaN, an unknown number, becomes an empty cell.
    """
    rows: list[dict[str, Any]] = [{"class": name} for name in classes]
    for column, values in columns.items():
        for row, value in zip(rows, values.tolist(), strict=True):
            whole = isinstance(value, int)
            row[column] = value if whole else "" if np.isnan(value) else f"{value:.4f}"
    return rows


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a CSV file in which no spreadsheet finds a formula."""
    with replacing(path) as temporary, temporary.open("w", **CSV) as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writerow({name: cell(name) for name in rows[0]})
        for row in rows:
            words = {name: cell(row[name]) for name in (*WORDS, "class") if name in row}
            writer.writerow(row | words)
    return path
