"""A CSV table: a row per picture, with the columns `file`, `label` and perhaps `split`.

A picture may have several labels: in one cell of a column `labels`, or in columns of 0 and 1.
"""

import csv
import io
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nano_cv.data.formats import reading, splitting
from nano_cv.data.formats.splitting import SEVERAL_LABELS, Sample
from nano_cv.data.images import EXTENSIONS
from nano_cv.data.pictures import SPLITS, Pictures
from nano_cv.errors import UserError, listing, nearest

log = logging.getLogger(__name__)
# What others call a column; the first name goes before the rest.
COLUMNS = {
    "file": "file filename file_name filepath path image image_name image_path img img_path",
    "label": "label class category target class_name category_name label_name species",
    "labels": "labels tags classes categories targets class_names category_names label_names",
    "split": "split set subset partition fold",
}
FURTHER = "file_path image_file img_name fname filepaths"  # of `file`, if there are none of those
# Columns of 0 and 1 that mark the rows of a split; not used if more than `MOST_MARKED` are 1.
SPLIT_FLAGS = {"is_test": "test", "is_valid": "val", "is_val": "val"}
MOST_MARKED = 2 / 3
ENDINGS = (".csv", ".tsv")
SEPARATORS = {"[": "in lists", "": "or none"}  # what a line in the log says of these
FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
UNKNOWN = {"", "-1", "-1.0"}  # in a column of 0 and 1
SIGNED = {"1", "-1"}  # 1 and 0, if there is nothing else, as CelebA writes them
BEGINS_AS_JSON = r"\[?\s*\{\s*['\"]"  # how a cell begins that holds more than labels
FEW_LINES = 10  # lines; in more, a single cell that is not 0 or 1 is a slip
Cells = dict[str, list[str]]  # what stands in each column, by the column's name; see `text_of`


class Row(NamedTuple):
    """One picture."""

    file: str
    labels: tuple[str, ...]  # the text of the cell, until `part_labels` splits it
    split: str
    where: str  # file and line of the table, for messages
    column: str  # of the labels: `label` or `labels`; empty if columns of 0 and 1 say them


def read_table(root: Path, task: str, separator: str | None = None) -> dict[str, Pictures]:
    """Read a set for classification or generation; `root` is the folder of the tables, or a table.

    `train.csv`, `val.csv` and `test.csv`; or one table for all of them, such as `labels.csv`, where
    the column `split` says which, or else the folders of the files, see `splitting.by_folders`.
    Rows without a split count as `train`, of which missing splits get some of each class. Files are
    relative to the folder of the table. Classes are the labels of the training split, sorted, as
    numbers where all are numbers. Columns may be separated by commas, semicolons or tabs. Targets
    are tuples of class indices if some pictures have several labels, see `part_labels`.

    `separator` stands between several labels in a cell; `none` if a cell is one label, and None to
    find out, see `find_separator`.
    """
    reading.check_task("A CSV table", task, "classification", "generation")
    tables = {"": root} if root.is_file() else find_tables(root)
    source = next(iter(tables.values())) if len(tables) == 1 else root
    root = root.parent if root.is_file() else root
    found = {split: read_rows(split, table) for split, table in tables.items()}
    rows = [*chain(*found.values())]
    files = find_files(found, tables, root)
    if not any(row.split == "train" for row in rows):
        splits = splitting.by_folders(root, files)
        pairs = zip(rows, splits, strict=True)
        rows = [row._replace(split=row.split or split) for row, split in pairs]
    every = part_labels(rows, source, separator)
    several = any(len(row.labels) != 1 for row in every)
    if several and task == "generation":
        raise UserError(f"{source}: {SEVERAL_LABELS}")
    reading.warn_of_unused(root, files)
    # Of rows without a split, `train` gets some of each class.
    learnt = {label for row in every if row.split in ("train", "") for label in row.labels}
    classes = reading.sort_classes(learnt, root)
    samples: dict[str, list[Sample]] = {split: [] for split in ("", *SPLITS)}
    for row, file in zip(every, files, strict=True):
        name = reading.below(root, root / row.file.replace("\\", "/"))
        index_of = partial(reading.class_index, classes=classes, where=row.where)
        own = tuple(sorted(map(index_of, row.labels))) if learnt else (0,)
        samples[row.split].append(Sample(file, own if several else own[0], name))
    if unknown := samples.pop(""):
        samples["train"] += unknown
        if len(unknown) < len(every):
            log.info("%s: %d rows without a split count as 'train'", source, len(unknown))
    pictures = splitting.as_splits(root, samples, classes, by_class=True)
    if len(classes) < 2:
        raise UserError(f"{root}: at least two labels are needed; there is {listing(classes)}")
    return pictures


def part_labels(rows: Sequence[Row], source: Path, separator: str | None) -> list[Row]:
    """The rows with the labels that their cells hold; a line in the log says if they are several.

    Columns of 0 and 1 have been read already. Where exactly one of them is 1 in every row, each
    picture has one label. An empty cell is refused if nothing else says that a picture may have no
    label, and so is a split without any label.
    """
    cells = {row.labels[0] for row in rows if row.column} - {""}
    plural = all(row.column == "labels" for row in rows if row.column)
    if separator is None:
        separator = find_separator(cells, plural, source)
    separator = "" if separator == "none" else separator
    if not (separator or plural):
        refuse_empty([row.where for row in rows if row.labels == ("",)], "label")
    meant: dict[str, tuple[str, ...]] = {"": ()}
    for row in rows:
        cell = row.labels[0] if row.column else ""
        if cell not in meant:
            meant[cell] = parts_of(cell, separator, row.where)
    rows = [row._replace(labels=meant[row.labels[0]]) if row.column else row for row in rows]
    for split in sorted({row.split for row in rows}):
        own = [row for row in rows if row.split == split]
        if not any(row.labels for row in own):
            raise UserError(
                f"{own[0].where}: no label, nor has any other picture of the split "
                f"'{split or 'train'}'; remove these lines, or write their labels"
            )
    without = sum(not row.labels for row in rows)
    known = sorted({label for row in rows for label in row.labels})
    if separator == "[" and set(known) <= {"0", "1"}:
        advice = "0 and 1 do not name labels; give each label a column of 0 and 1"
        raise UserError(f"{rows[0].where}: lists of 0 and 1: {advice}")
    if without or any(len(row.labels) > 1 for row in rows):
        how = SEPARATORS.get(separator, f"separated by '{separator}'")
        how = how if cells else "a column of 0 and 1 for each"
        none = f"; pictures with none: {without}" if without else ""
        log.info("%s: several labels per picture, %s: %s%s", source, how, listing(known), none)
        if separator:
            log.info("if a cell is one label, add data.separator=none")
    elif rows and not cells:
        log.info("%s: one label per picture, the column that is 1: %s", source, listing(known))
    return rows


def find_separator(cells: Collection[str], plural: bool, source: Path) -> str:
    """What separates the labels in a cell; `[` for lists, and nothing where a cell is one label.

    In a column with a name in the plural these are `|` and `;`, and also commas and spaces if more
    than half of the parts occur in several different cells: in "tench, Tinca tinca" the comma
    belongs to the name. In a column `label` a cell is one label, unless all parts of all cells with
    `|`, `;` or commas are cells of their own too. Lists in brackets are lists in both.
    """
    cells = [cell for cell in cells if not re.match(BEGINS_AS_JSON, cell)]  # see `parts_of`
    if cells and all(re.fullmatch(r"\[[^][{}]*\]", cell) for cell in cells):
        return "["
    for separator in "|;, ":
        meant = {cell: parts_of(cell, separator, str(source)) for cell in sorted(cells)}
        several = [cell for cell, parts in meant.items() if len(parts) > 1]
        seen = Counter(part for parts in meant.values() for part in parts)
        shared = 2 * sum(count > 1 for count in seen.values()) > len(seen)
        shared = shared and not {"of", "and", "the"} & ({*seen} - {*cells})  # ace of clubs
        alone = all(part in cells for cell in several for part in meant[cell])
        sure = separator in "|;"
        if several and ((sure or shared) if plural else (alone and separator != " ")):
            return separator
        if several and (plural or alone or (sure and shared)):
            advice = "separate them by '|'" if plural else "call the column 'labels'"
            log.info("%s: '%s' is one label; if it is several, %s", source, several[0], advice)
            break
    return ""


def parts_of(cell: str, separator: str, where: str) -> tuple[str, ...]:
    """The labels in a cell, each of them once.

    Raises:
        UserError: the cell should be a list and is not, as NumPy's `['crack' 'pothole']`.
    """
    if several := re.fullmatch(r"\{['\"]choices['\"]: *(\[.*\])\}", cell):  # Label Studio's
        cell, separator = several[1], "["
    elif re.match(BEGINS_AS_JSON, cell):
        raise UserError(f"{where}: {cell[:60]}: JSON is no label; export boxes as COCO")
    parts: Any = cell.split(separator) if separator else [cell]
    if separator == "[":
        try:
            parts = yaml.load(cell, yaml.BaseLoader)  # as text, be it a list of Python or of JSON
        except yaml.YAMLError:
            parts = None
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise UserError(f'{where}: {cell}: not a list of labels, as in ["crack", "pothole"]')
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def find_tables(root: Path) -> dict[str, Path]:
    """The table of each split; or that of all of them, under an empty name."""
    inside = reading.list_folder(root)
    every = [path for path in inside if path.suffix.lower() in ENDINGS]
    # Roboflow writes `train/_classes.csv` and so on, beside the pictures.
    below = {} if every else splitting.one_by_split(filter(Path.is_dir, inside))
    lists = {split: folder / "_classes.csv" for split, folder in below.items()}
    if "train" in lists and all(map(Path.exists, lists.values())):
        return lists
    if not every and (further := sorted(root.glob("[!.]*/[!.]*.csv"))):
        advice = f"data.root={further[0].parent}" if len(further) == 1 else "data.root=FOLDER"
        raise UserError(f"{root}: no table here, but {listing(further)}; type {advice}")
    common = [root / f"labels{ending}" for ending in ENDINGS if root / f"labels{ending}" in every]
    by_words = {} if common else splitting.by_words(every)
    tables = splitting.one_by_split(every) or (by_words if len(by_words) > 1 else {})
    if "train" in tables or 0 < len(tables) == len(every):
        others = sorted({*every} - {*tables.values()})
        passed = f"; passed over: {listing(others)}" if others else ""
        log.info("%s: tables of splits: %s%s", root, listing(tables.values()), passed)
        return tables
    if tables and common:
        log.warning("%s: passed over: %s", root, listing(tables.values()))
    if not common and len(every) == 1:
        common = every
        log.info("%s: the table is %s", root, every[0].name)
    splitting.refuse_several(common, "the table")
    if every and not common:
        raise UserError(f"{root}: which is the table? {listing(every)}; type data.root=TABLE")
    return {"": common[0] if common else root / "labels.csv"}


def find_files(
    found: Mapping[str, Sequence[Row]], tables: Mapping[str, Path], root: Path
) -> list[Path]:
    """The pictures of the rows `found` in each table; a split must not name one twice."""
    files: list[Path] = []
    inside = splitting.group_by_split(filter(Path.is_dir, reading.list_folder(root)))
    for split, own in found.items():
        table = tables[split]
        names, places = [row.file for row in own], [row.where for row in own]
        folders = [*dict.fromkeys([table.parent, root, root / "images", *inside.get(split, ())])]
        files += reading.find_named(table, names, folders, root, places=places)
    first: dict[tuple[str, str], Row] = {}
    for row, file in zip(chain(*found.values()), files, strict=True):
        other = first.setdefault((row.split, os.path.abspath(file)), row)
        if other is not row:
            several = "give all labels of a picture in one line, as a|b in a column 'labels'"
            advice = "remove one of them" if row.labels == other.labels else several
            raise UserError(
                f"{row.where}: {row.file} stands in {other.where} already; {advice}; boxes are "
                "read from COCO, YOLO or PASCAL VOC, and not from a table"
            )
    return files


def read_rows(split: str, source: Path) -> list[Row]:
    """The rows of a table for `split`, or for all splits if that is empty.

    Of a table for `train`, a column may say that some rows are of another split.
    """
    text = reading.read_text(source)
    # Excel may write a line such as `sep=;` above the table.
    stated = re.match(r"sep=(.)\r?\n", text, re.IGNORECASE)
    lines = text[stated.end() if stated else 0 :]
    first = re.sub(r'"[^"]*"', "", lines.splitlines()[0] if lines else "")
    delimiter = stated[1] if stated else max(",;\t", key=first.count)
    # Not the lines: a label in quotes may have a line break.
    content = io.StringIO(lines, newline="")
    reader = csv.reader(content, delimiter=delimiter, skipinitialspace=True, strict=True)
    records, last = list[tuple[str, list[str]]](), int(bool(stated))
    try:
        for record in reader:
            last = reader.line_num + bool(stated)
            records.append((f"{source}, line {last}", record))
    except csv.Error as error:
        raise UserError(f"{source}, line {last + 1}: {error}; a quote may stand alone") from error
    columns = records[0][1] if records else []
    reading.refuse_repeated(filter(str.strip, columns), f"{source}: two columns of one name")
    # Excel writes lines of nothing but separators.
    records = [(where, record) for where, record in records[1:] if any(map(str.strip, record))]
    cells = {
        name: [text_of(record[at]) if at < len(record) else "" for _, record in records]
        for at, name in enumerate(columns)
    }
    file_column = find_file_column(cells, source)
    kind = "label" if find_column("label", cells, source) else "labels"
    label_column = find_column(kind, cells, source)
    if not label_column and {"choice", "annotator"} <= {*cells}:  # of Label Studio
        label_column = "choice"
    split_column = "" if split else find_column("split", cells, source)
    if split in ("", "train") and not split_column:
        rest = {*filter(str.strip, cells)} - {file_column, label_column}
        naming = [name for name in cells if name in rest and names_splits(cells[name])]
        split_column = only("split", naming, source)
    marks = find_split_marks(cells) if split in ("", "train") else {}
    splits = {split_column: cells[split_column]} if split_column else marks
    named = {"file": file_column, kind: label_column, "split": ", ".join(splits)}
    further = sorted({*filter(str.strip, cells)} - {*named.values(), *splits})
    others = {name: cells[name] for name in further}
    if "region_shape_attributes" in cells:
        raise UserError(f"{source}: boxes of the VGG Image Annotator; export them as COCO")
    flags = {} if label_column else find_flags(others, [where for where, _ in records], source)
    for needed, found in (("label", label_column or len(flags) > 1), ("file", file_column)):
        if not found and needed == "label" and split == "test":
            log.warning("%s: passed over, for it has no labels", source)
            return []
        if not found:
            raise UserError(
                f"{source}: no column '{needed}'{nearest(needed, columns)} "
                f"The first line names the columns: {listing(columns) or 'it is empty'}; needed "
                "are file,label (or labels, or columns of 0 and 1) and for several splits in one "
                "table, split"
            )
    renamed = [f"'{name}' is the {kind}" for kind, name in named.items() if name not in ("", kind)]
    if renamed:
        log.info("%s: column %s", source, listing(renamed))
    if unused := [name for name in others if name not in flags]:
        log.info("%s: columns that are not used: %s", source, listing(unused))
    for name in unused if flags else ():
        kinds = {*cells[name]}
        if 1 < len(kinds) <= len(records) / 2 and not any(cell[:1].isdecimal() for cell in kinds):
            log.warning("%s: if '%s' is the class of the pictures, call it 'label'", source, name)
    rows = []
    for number, (where, record) in enumerate(records):
        split_cell = next(filter(None, (column[number] for column in splits.values())), "")
        own = splitting.called(split_cell) if split_cell else split
        if own is None:
            raise UserError(
                f"{where}: {split_column} '{split_cell}'{nearest(split_cell, SPLITS)} "
                f"Allowed: {listing(SPLITS)}; if this column does not name splits, rename it"
            )
        more = [cell for cell in record[len(columns) :] if cell.strip()]
        if more:
            advice = "put a label with a comma in quotes"
            if kind != "label":
                advice = "put labels with commas between them in quotes, or separate them with '|'"
            raise UserError(
                f"{where}: {len(columns) + len(more)} cells, and the first line names "
                f"{len(columns)}; {advice}"
            )
        labels = [name for name, ones in flags.items() if ones[number]]
        labels = [cells[label_column][number]] if label_column else labels
        file = cells[file_column][number]
        rows.append(Row(file, tuple(labels), own, where, label_column and kind))
    refuse_empty([row.where for row in rows if not row.file], "file")
    return rows


def find_split_marks(cells: Cells) -> Cells:
    """The columns of `SPLIT_FLAGS`, each with the split it says of every record, or nothing."""
    marks = {}
    named = [name for known in SPLIT_FLAGS for name in cells if plain(name) == known]
    for name in named:
        own = [cell.lower() for cell in cells[name]]
        ones = [FLAGS.get(cell, True) for cell in own]
        if FLAGS.keys() >= {*own} and sum(ones) <= MOST_MARKED * len(ones):
            marks[name] = [SPLIT_FLAGS[plain(name)] if one else "" for one in ones]
    return marks


def names_splits(cells: Sequence[str]) -> bool:
    """Return whether cells hold only names of splits, and several of these."""
    texts = {*cells} - {""}
    return all(map(splitting.called, texts)) and len({*map(splitting.called, texts)}) > 1


def text_of(cell: str) -> str:
    """The text of a cell; nothing if it is NaN."""
    text = cell.strip()
    return "" if text.lower() == "nan" else text


def refuse_empty(places: Sequence[str], what: str) -> None:
    """Raise a `UserError` if there are lines in which a cell is empty."""
    if places:
        more = f" ({len(places)} such lines; remove or complete them)" if len(places) > 1 else ""
        raise UserError(f"{places[0]}: no {what}{more}")


def find_flags(written: Cells, places: Sequence[str], source: Path) -> dict[str, list[bool]]:
    """The columns of only 0 and 1, each with what it says of every record.

    -1 is 0 in columns of only 1 and -1, if there are several and no column has 0. A column that is
    empty or -1 in some lines is refused.
    """
    cells_of = {name: [cell.lower() for cell in cells] for name, cells in written.items()}
    signed = [name for name, cells in cells_of.items() if cells and set(cells) <= SIGNED]
    zeros = any({"0"} <= set(cells) <= {"0", "1"} for cells in cells_of.values())
    if len(signed) < 2 or zeros or not any("-1" in cells_of[name] for name in signed):
        signed = []
    if signed:
        log.info("%s: -1 is taken as 0 in the columns %s", source, listing(signed))
    flags = {}
    for name, cells in cells_of.items():
        known = FLAGS | {"-1": False} if name in signed else FLAGS
        wrong = [number for number, cell in enumerate(cells) if cell not in known]
        slip = len(wrong) == 1 and len(cells) >= FEW_LINES
        if len(wrong) < len(cells) and (slip or all(cells[n] in UNKNOWN for n in wrong)):
            if wrong:
                text = f"column '{name}' is '{cells[wrong[0]]}'; 0 or 1 is needed, as in the other"
                raise UserError(f"{places[wrong[0]]}: {text} lines, or remove this line")
            flags[name] = [known[cell] for cell in cells]
            if not any(flags[name]):
                log.warning("%s: no picture has the label '%s'", source, name)
    return flags


def find_column(kind: str, columns: Collection[str], source: Path) -> str:
    """The column for the file, label, labels or split, see `only`."""
    if kind in columns:
        return kind
    known = COLUMNS[kind].split()
    return only(kind, [name for name in columns if plain(name) in known], source)


def find_file_column(cells: Cells, source: Path) -> str:
    """The column for the file, by its name, or as its first cells end as pictures do."""
    named = find_column("file", cells, source)
    further = [name for name in cells if plain(name) in FURTHER.split()]
    if named or further:
        return named or only("file", further, source)
    first = {name: own[:FEW_LINES] for name, own in cells.items()}
    found = [name for name, own in first.items() if own and all(map(_is_picture, own))]
    numbers = [name for name in cells if plain(name) == "image_id"]
    return only("file", (numbers or found) if len(found) != 1 else found, source)


def _is_picture(cell: str) -> bool:
    return cell.lower().endswith(EXTENSIONS) and "://" not in cell


def plain(column: str) -> str:
    """The name of a column as `COLUMNS` writes it."""
    return column.strip().lower().replace(" ", "_")


def only(kind: str, columns: Sequence[str], source: Path) -> str:
    """The only column of a kind; an empty name if there is none, a `UserError` if several."""
    if len(columns) > 1:
        names = listing(columns)
        raise UserError(f"{source}: each could be the {kind}: {names}; call one '{kind}'")
    return columns[0] if columns else ""
