"""A CSV table: a row per picture, with the columns `file`, `label` and perhaps `split`."""

import csv
import io
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nano_cv.data.formats import reading, splitting
from nano_cv.data.formats.splitting import Sample
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


def read_table(root: Path, task: str) -> dict[str, Pictures]:
    """Read a set for classification or generation; `root` is the folder of the tables, or a table.

    `train.csv`, `val.csv` and `test.csv`; or one table for all of them, such as `labels.csv`, where
    the column `split` says which. A split that is missing is taken out of `train`, or out of the
    rows without a split, by the hash of the file names, some of each class. Files are relative to
    the folder of the table. Classes are the labels of the training split, sorted, as numbers where
    all are numbers; 1.0 is 1. Columns may be separated by commas, semicolons or tabs.

    Raises:
        UserError: columns, pictures or labels missing; names table and line.
    """
    reading.check_task("A CSV table", task, "classification", "generation")
    tables = {"": root} if root.is_file() else find_tables(root)
    root = root.parent if root.is_file() else root
    every = whole_numbers([row for one in tables.items() for row in read_rows(*one)], root)
    files = find_files(every, tables, root)
    # Of rows without a split, `train` gets some of each class.
    learnt = {row.label for row in every if row.split in ("train", "")}
    classes = reading.sort_classes(learnt, root)
    samples: dict[str, list[Sample]] = {split: [] for split in ("", *SPLITS)}
    for row, file in zip(every, files, strict=True):
        name = reading.below(root, root / row.file.replace("\\", "/"))
        label = reading.class_index(row.label, classes, row.where) if learnt else 0
        samples[row.split].append(Sample(file, label, name))
    if unknown := samples.pop(""):
        for split, some in splitting.complete({"train": unknown}, root, classes).items():
            samples[split] += some
    found = splitting.complete(samples, root, classes)
    if len(classes) < 2:
        raise UserError(f"{root}: at least two labels are needed; there is {listing(classes)}")
    return splitting.as_pictures(root, found, classes)


def find_tables(root: Path) -> dict[str, Path]:
    """The table of each split; or that of all of them, under an empty name."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; it should hold labels.csv")
    every = [path for path in reading.list_folder(root) if path.suffix in ENDINGS]
    if found := splitting.one_for_each(splitting.group_by_split(every)):
        return found
    common = [root / f"labels{ending}" for ending in ENDINGS if root / f"labels{ending}" in every]
    if not common and len(every) == 1:
        common = every
        log.info("%s: the table is %s", root, every[0].name)
    splitting.refuse_several(common, "the table")
    return {"": common[0] if common else root / "labels.csv"}


def find_files(rows: Sequence[Row], tables: dict[str, Path], root: Path) -> list[Path]:
    """The pictures of the rows; a split must not name one twice."""
    files: list[Path] = []
    for split, table in tables.items():
        own = [row for row in rows if split in ("", row.split)]
        names, places = [row.file for row in own], [row.where for row in own]
        files += reading.find_named(table, names, [root, root / "images"], root, places=places)
    first: dict[tuple[str, str], Row] = {}
    for row, file in zip(rows, files, strict=True):
        other = first.setdefault((row.split, os.path.abspath(file)), row)
        if other is not row:
            raise UserError(f"{row.where}: {row.file} stands in {other.where} already")
    return files


def whole_numbers(rows: list[Row], source: Path) -> list[Row]:
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
    log.info("%s: labels are whole numbers: %s is %s", source, pointed[0], plain[pointed[0]])
    return [row._replace(label=plain[row.label]) for row in rows]


def read_rows(split: str, source: Path) -> list[Row]:
    """The rows of a table, of which all belong to `split` if that is not empty."""
    text = reading.read_text(source)
    first = text.splitlines()[0] if text else ""
    delimiter = max(",;\t", key=first.count)
    # Not the lines: a label in quotes may have a line break.
    content = io.StringIO(text, newline="")
    table = csv.DictReader(content, delimiter=delimiter, skipinitialspace=True)
    columns = list(table.fieldnames or [])
    reading.refuse_repeated(columns, f"{source}: two columns of one name")
    file_column = find_column("file", columns, source)
    label_column = find_column("label", columns, source)
    split_column = "" if split else find_column("split", columns, source)
    renamed = {"file": file_column, "label": label_column, "split": split_column}
    said = [f"'{name}' is the {kind}" for kind, name in renamed.items() if name not in ("", kind)]
    if said:
        log.info("%s: column %s", source, listing(said))
    rows, empty = [], []
    for row in _records(table, source):
        where = f"{source}, line {table.line_num}"
        file, label = ((row[name] or "").strip() for name in (file_column, label_column))
        if not file or not label or label.lower() == "nan" or file.lower() == "nan":
            empty.append((where, "label" if file and file.lower() != "nan" else "file"))
            continue
        given = ((split_column and row.get(split_column)) or "").strip()
        own = split or (splitting.called(given) if given else "")
        if own is None:
            raise UserError(
                f"{where}: {split_column} '{given}'{nearest(given, SPLITS)} "
                f"Allowed: {listing(SPLITS)}"
            )
        rows.append(Row(file, label, own, where))
    if empty:
        more = f" ({len(empty)} such lines; remove or complete them)" if len(empty) > 1 else ""
        raise UserError(f"{empty[0][0]}: no {empty[0][1]}{more}")
    return rows


def find_column(kind: str, columns: Sequence[str], source: Path) -> str:
    """The column for the file, the label or the split; the last may be missing: an empty name.

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


def _records(table: "csv.DictReader[str]", source: Path) -> Iterator[dict[str, str | None]]:
    try:
        yield from table
    except csv.Error as error:
        raise UserError(
            f"{source}, line {table.line_num}: {error}; a quote may stand alone"
        ) from error
