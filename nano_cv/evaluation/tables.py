"""CSV files for spreadsheets, and column names that differ from each other."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What begins so is a formula to a spreadsheet, blanks and signs that cannot be seen left out;
# apostrophes before it count, so that removing one of them gives the text back.
FORMULA = re.compile(
    r"'*(?:[\t\r]|[\s\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\ufeff]*[=+\-@\uff0b\uff0d\uff1d\uff20])"
)
# Columns of words, in their order.
WORDS = ("file", "label", "labels", "target", "label_set", "foreign")
# How to open one; a name that is no Unicode is written with escapes.
CSV: Any = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}


def cell(text: str) -> str:
    """Text for a spreadsheet: a formula gets an apostrophe before its first character.

    Not for numbers: those stay numbers, `-1.5` too.
    """
    return f"'{text}" if FORMULA.match(text) else text


def distinct(names: Sequence[str], reserved: Collection[str] = ()) -> list[str]:
    """The names; a name already taken, by `reserved` or before in the list, gets ` (class)`."""
    found: list[str] = []
    taken, ordinary = set(reserved), set(names)
    for name in names:
        free = name
        while free in taken or (free != name and free in ordinary):
            free += " (class)"
        taken.add(free)
        found.append(free)
    return found


def class_rows(classes: Sequence[str], columns: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Rows of `classes.csv`, one for each of K classes, from columns of numbers `[K]` by name.

    Whole numbers are written as they are, others with four decimals, unknown ones, NaN, not at all.
    """
    rows: list[dict[str, Any]] = [{"class": name} for name in classes]
    for column, values in columns.items():
        for row, value in zip(rows, values.tolist(), strict=True):
            whole = isinstance(value, int)
            row[column] = value if whole else "" if np.isnan(value) else f"{value:.4f}"
    return rows
