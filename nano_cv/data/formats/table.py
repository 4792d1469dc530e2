"""A CSV table: a row a picture, with the columns `file`, `label` and, if there is one, `split`."""

import csv
import io
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nano_cv.data.formats import reading
from nano_cv.data.formats.splitting import called, complete
from nano_cv.data.pictures import SPLITS, Pictures
from nano_cv.errors import UserError, listing, nearest

log = logging.getLogger(__name__)
# What others call a column; the first name goes before the rest.
COLUMNS = {
    "file": "file filename file_name image image_name image_path img img_path path filepath",
    "label": "label class category target class_name category_name label_name species",
    "split": "split set subset partition fold",
}
ENDINGS = (".csv", ".tsv")


class Row(NamedTuple):
    """One picture; `where` is the line of the table, for messages."""

    file: str
    label: str
    split: str
    where: str


class Table(Pictures):
    """One split of a set for classification or generation.

    `train.csv`, `val.csv` and `test.csv`; or one table for all of them, such as `labels.csv`, where
    the column `split` says which. A split that is missing is taken out of `train`, or out of the
    rows without a split, by the hash of the file names, some of each class. Files are relative to
    the folder of the table. Classes are the labels of the training split, sorted, as numbers where
    all are numbers; 1.0 is 1. Columns may be separated by commas, semicolons or tabs.

    Args:
        root: folder of the tables, or a table itself.
        split: `train`, `val` or `test`.
        task: `classification` or `generation`.

    Raises:
        UserError: columns, pictures or labels missing; names table and line.
    """

    def __init__(self, root: str | Path, split: str, task: str = "classification") -> None:
        reading.serves("A CSV table", task, "classification", "generation")
        root, notice = Path(root), split == "train"
        tables = {"": root} if root.is_file() else tables_of(root, notice)
        root = root.parent if root.is_file() else root
        every = [row for one, table in tables.items() for row in read(table, one, notice)]
        every = whole_numbers(every, root, notice)
        given = {one: [row for row in every if row.split == one] for one in SPLITS}
        hashed = (root, lambda row: name_of(root, row), lambda row: row.label, notice)
        if unknown := [row for row in every if not row.split]:
            for one, some in complete({"train": unknown}, *hashed).items():
                given[one] += some
        rows = complete(given, *hashed)
        classes = reading.in_order({row.label for row in rows["train"]}, root, notice=notice)
        labels = [reading.class_index(row.label, classes, row.where) for row in rows[split]]
        names = [row.file for row in rows[split]]
        table = tables.get(split) or next(iter(tables.values()))
        folders = [root, root / "images"]
        places = [row.where for row in rows[split]]
        files = reading.files_named(table, names, folders, root, places=places)
        lines: dict[str, Row] = {}
        for row, file in zip(rows[split], files, strict=True):
            first = lines.setdefault(os.path.abspath(file), row)
            if first is not row:
                raise UserError(f"{row.where}: {row.file} stands in {first.where} already")
        if len(classes) < 2:
            raise UserError(f"{root}: at least two labels are needed; there is {listing(classes)}")
        super().__init__(root, files, labels, classes)


def name_of(root: Path, row: Row) -> str:
    """What is hashed: the same wherever the set lies, if the pictures are below it."""
    return reading.below(root, root / row.file.replace("\\", "/"))


def tables_of(root: Path, notice: bool) -> dict[str, Path]:
    """The table of each split; or that of all of them, under an empty name."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; it should hold labels.csv")
    every = sorted(file for ending in ENDINGS for file in root.glob(f"[!.]*{ending}"))
    found: dict[str, Path] = {}
    for file in every:
        split = called(file.stem)
        if split and found.setdefault(split, file) != file:
            raise UserError(
                f"{found[split]}, {file}: each could be the split '{split}'; leave one of them"
            )
    if found:
        return found
    common = [root / f"labels{ending}" for ending in ENDINGS if root / f"labels{ending}" in every]
    if not common and len(every) == 1:
        common = every
        if notice:
            log.info("%s: the table is %s", root, every[0].name)
    if len(common) > 1:
        raise UserError(f"{listing(common)}: each could be the table; leave one of them")
    return {"": common[0] if common else root / "labels.csv"}


def whole_numbers(rows: list[Row], source: Path, notice: bool) -> list[Row]:
    """The rows with the labels 1 and 2 for 1.0 and 2.0, if all labels are whole numbers.

    pandas writes them so where some cells of the column were empty. Where one number is written in
    several ways, as 7.0 and 007, the labels may be names, and stay.
    """
    plain = {row.label: re.sub(r"\.0+$", "", row.label) for row in rows}
    pointed = [label for label, one in plain.items() if label != one]
    whole = all(re.fullmatch("[0-9]+", one) for one in plain.values())
    one_way = whole and len(set(map(int, plain.values()))) == len(set(plain.values()))
    if not (pointed and one_way):
        return rows
    if notice:
        log.info("%s: labels are whole numbers: %s is %s", source, pointed[0], plain[pointed[0]])
    return [row._replace(label=plain[row.label]) for row in rows]


def read(source: Path, split: str, notice: bool = True) -> list[Row]:
    """The rows of a table, of which all belong to `split` if that is not empty."""
    lines = reading.text(source).splitlines()
    first = lines[0] if lines else ""
    delimiter = max(",;\t", key=first.count)
    # Not the lines: a label in quotes may have a line break.
    content = io.StringIO(reading.text(source), newline="")
    table = csv.DictReader(content, delimiter=delimiter, skipinitialspace=True)
    columns = list(table.fieldnames or [])
    twice = reading.repeated(columns)
    if twice:
        raise UserError(f"{source}: two columns of one name: {listing(twice)}")
    file_column = column_of("file", columns, source)
    label_column = column_of("label", columns, source)
    split_column = "" if split else column_of("split", columns, source)
    if notice:
        renamed = {"file": file_column, "label": label_column, "split": split_column}
        said = [
            f"'{name}' is the {kind}" for kind, name in renamed.items() if name not in ("", kind)
        ]
        if said:
            log.info("%s: column %s", source, listing(said))
    rows, empty = [], []
    for row in _rows(table, source):
        where = f"{source}, line {table.line_num}"
        file, label = ((row[name] or "").strip() for name in (file_column, label_column))
        if not file or not label or label.lower() == "nan" or file.lower() == "nan":
            empty.append((where, "label" if file and file.lower() != "nan" else "file"))
            continue
        given = split or ((split_column and row.get(split_column)) or "").strip()
        if given and not split:
            one = called(given)
            if one is None:
                raise UserError(
                    f"{where}: {split_column} '{given}'{nearest(given, SPLITS)} "
                    f"Allowed: {listing(SPLITS)}"
                )
            given = one
        rows.append(Row(file, label, given, where))
    if empty:
        more = f" ({len(empty)} such lines; remove or complete them)" if len(empty) > 1 else ""
        raise UserError(f"{empty[0][0]}: no {empty[0][1]}{more}")
    return rows


def column_of(kind: str, columns: Sequence[str], source: Path) -> str:
    """The column for the file, the label or the split; the latter may be missing: an empty name.

    Raises:
        UserError: none, or several.
    """
    if kind in columns:
        return kind
    found = [name for name in columns if name.strip().lower() in COLUMNS[kind].split()]
    if len(found) > 1:
        raise UserError(f"{source}: each could be the {kind}: {listing(found)}; call one '{kind}'")
    if not found and kind != "split":
        raise UserError(
            f"{source}: no column '{kind}'{nearest(kind, columns)} "
            f"The first line names the columns: {listing(columns) or 'it is empty'}; needed are "
            "file,label and for several splits in one table, split"
        )
    return found[0] if found else ""


def _rows(table: "csv.DictReader[str]", source: Path) -> Iterator[dict[str, str | None]]:
    try:
        yield from table
    except csv.Error as error:
        raise UserError(
            f"{source}, line {table.line_num}: {error}; a quote may stand alone"
        ) from error
