"""A CSV table: a row a picture, with the columns `file`, `label` and, if there is one, `split`."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nano_cv.data import reading
from nano_cv.data.pictures import SPLITS, Pictures
from nano_cv.data.splitting import CALLED, say_shares, stable_split
from nano_cv.errors import UserError, listing, nearest

NEEDED = ("file", "label")
LIKE_SPLIT = ("split", "set", "subset", "partition", "fold")  # what others call that column


class Row(NamedTuple):
    """One picture; `where` is the line of the table, for messages."""

    file: str
    label: str
    split: str
    where: str


class Table(Pictures):
    """One split of a set for classification or generation.

    `train.csv`, `val.csv` and `test.csv`; or `labels.csv` for all of them, where the column
    `split` says which, or else the hash of the file's name. Files are relative to the folder of the
    table. Classes are the labels of the training split, sorted, as numbers where all are numbers.
    Columns may be separated by commas, semicolons or tabs.

    Args:
        root: folder of the tables.
        split: `train`, `val` or `test`.
        task: `classification` or `generation`.

    Raises:
        UserError: columns, pictures or labels missing; names table and line.
    """

    def __init__(self, root: str | Path, split: str, task: str = "classification") -> None:
        reading.serves("A CSV table", task, "classification", "generation")
        root = Path(root)
        rows = list(rows_of(root, split))
        training = rows if split == "train" else list(rows_of(root, "train"))
        classes = reading.in_order({row.label for row in training}, root, notice=split == "train")
        labels = [reading.class_index(row.label, classes, row.where) for row in rows]
        files = [root / row.file for row in rows]
        lines: dict[str, Row] = {}
        for row, file in zip(rows, files, strict=True):
            first = lines.setdefault(os.path.abspath(file), row)
            if first is not row:
                raise UserError(f"{row.where}: {row.file} stands in {first.where} already")
        missing = [
            f"{row.where}: {row.file}"
            for row, file in zip(rows, files, strict=True)
            if not file.is_file()
        ]
        if missing:
            raise UserError(
                f"{len(missing)} pictures are not in {root}: {listing(missing, most=3)}"
            )
        if len(classes) < 2:
            raise UserError(f"{root}: at least two labels are needed; there is {listing(classes)}")
        super().__init__(root, files, labels, classes)


def rows_of(root: Path, split: str) -> Iterator[Row]:
    """The rows of one split; a table of its own goes before the common one."""
    common = root / "labels.csv"
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; it should hold labels.csv")
    if any((root / f"{one}.csv").exists() for one in SPLITS):
        yield from read(root / f"{split}.csv", split)
        return
    rows = list(read(common, ""))
    if split == "train" and not all(row.split for row in rows):
        say_shares(common)
    for row in rows:
        if (row.split or stable_split(Path(row.file).name)) == split:
            yield row


def read(source: Path, split: str) -> Iterator[Row]:
    """The rows of a table, of which all belong to `split` if that is not empty."""
    lines = reading.text(source).splitlines()
    first = lines[0] if lines else ""
    table = csv.DictReader(lines, delimiter=max(",;\t", key=first.count), skipinitialspace=True)
    columns = list(table.fieldnames or [])
    lacking = [name for name in NEEDED if name not in columns]
    if lacking:
        raise UserError(
            f"{source}: no column '{lacking[0]}'{nearest(lacking[0], columns)} "
            f"The first line names the columns: {listing(columns) or 'it is empty'}; needed are "
            "file,label and for several splits in one table, split"
        )
    other = [name for name in columns if name.lower() in LIKE_SPLIT]
    if not split and other and "split" not in columns:
        raise UserError(f"{source}: column '{other[0]}'; is it the split? Then call it 'split'")
    if len(set(columns)) < len(columns):
        raise UserError(f"{source}: two columns of one name: {listing(columns)}")
    for row in _rows(table, source):
        where = f"{source}, line {table.line_num}"
        file, label = ((row[name] or "").strip() for name in NEEDED)
        if not file or not label:
            raise UserError(f"{where}: no {'label' if file else 'file'}")
        given = split or (row.get("split") or "").strip()
        given = next((one for one, names in CALLED.items() if given.lower() in names), given)
        if given not in ("", *SPLITS):
            raise UserError(
                f"{where}: split '{given}'{nearest(given, SPLITS)} Allowed: {listing(SPLITS)}"
            )
        yield Row(file, label, given, where)


def _rows(table: "csv.DictReader[str]", source: Path) -> Iterator[dict[str, str | None]]:
    try:
        yield from table
    except csv.Error as error:
        raise UserError(
            f"{source}, line {table.line_num}: {error}; a quote may stand alone"
        ) from error
