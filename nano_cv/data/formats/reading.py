"""What the readers of all formats share: text files, class names, pictures by name, boxes.

Whatever is wrong is a `UserError` that names the file, and the line or object in it.
"""

import codecs
import logging
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np
import yaml

from nano_cv.data import images
from nano_cv.data.formats.splitting import called
from nano_cv.data.pictures import COUNTED, Boxes
from nano_cv.errors import UserError, listing, nearest

log = logging.getLogger(__name__)
Item = TypeVar("Item", bound=Hashable)


class Object(NamedTuple):
    """One object of a picture.

    Attributes:
        corners: x1, y1, x2, y2 in pixels of the upright picture.
        label: class index.
        where: file and place in it, for messages.
        ignored: whether it counts, see `Boxes`.
        outline: polygons of x1 y1 x2 y2 ... in pixels, or the runs of COCO; None: only a box.
    """

    corners: tuple[float, float, float, float]
    label: int
    where: str
    ignored: int = COUNTED
    outline: Any = None


def check_task(layout: str, task: str, *tasks: str) -> None:
    """Refuse a task that the layout has no targets for."""
    if task not in tasks:
        raise UserError(f"{layout} has targets for {listing(tasks)}, and the task is {task}")


# Files


def read_bytes(file: Path) -> bytes:
    """The content of a file; where it is missing, its neighbours are named."""
    try:
        return file.read_bytes()
    except OSError as error:
        beside = sorted(path.name for path in file.parent.glob(f"[!.]*{file.suffix}"))
        there = f"; beside it there is: {listing(beside)}" if beside else ""
        raise UserError(f"{file}: cannot be read: {error.strerror}{there}") from error


def read_text(file: Path) -> str:
    """The content of a text file in UTF-8, or in UTF-16 with a byte-order mark."""
    content = read_bytes(file)
    # Windows' programs put a mark in front: PowerShell that of UTF-16, editors that of UTF-8.
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    with well_formed(file, "UTF-8 text"):
        return content.decode("utf-16" if wide else "utf-8-sig")


def read_lines(file: Path) -> list[str]:
    """The lines of a text file that are not empty, without space around them."""
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


@contextmanager
def well_formed(file: Path, form: str) -> Iterator[None]:
    """Turn errors of JSON, YAML and XML parsers into a `UserError` that names the file.

    Such are numbers of too many digits, the 30th of February, brackets without end, and unknown
    encodings.
    """
    try:
        yield
    except (ValueError, LookupError, RecursionError, SyntaxError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not {form}: {error}") from error


# Names of classes


def read_classes(file: Path) -> list[str]:
    """Class names, one per line; leading numbers as in `0 background` are dropped."""
    names = read_lines(file)
    numbered = [name.split(maxsplit=1) for name in names]
    if all(len(parts) == 2 and parts[0] == str(i) for i, parts in enumerate(numbered)):
        names = [name for _, name in numbered]
    return check_class_names(names, file)


def check_class_names(names: Sequence[str], source: Path) -> list[str]:
    """The class names; refused if empty or repeated."""
    if not names:
        raise UserError(f"{source}: no class names")
    refuse_repeated(names, f"{source}: the same class twice")
    return list(names)


def refuse_repeated(items: Iterable[Item], fault: str) -> None:
    """Raise a `UserError` that begins with `fault` if something occurs more than once."""
    if twice := repeated(items):
        raise UserError(f"{fault}: {listing(twice)}")


def repeated(items: Iterable[Item]) -> list[Item]:
    """The items that occur more than once."""
    return [item for item, count in Counter(items).items() if count > 1]


def sort_classes(names: Iterable[str], source: Path) -> list[str]:
    """Class names sorted; as numbers, with a notice, where all of them are numbers."""
    by_name = sorted(names)
    if not all(map(str.isdecimal, by_name)):
        return by_name
    by_number = sorted(by_name, key=int)
    if by_number != by_name:
        log.warning("%s: classes are numbers and sorted as such: %s", source, listing(by_number))
    return by_number


def class_index(name: str, classes: Sequence[str], where: str) -> int:
    """The position of a class name, or a `UserError` with the name that is spelt like it."""
    if name not in classes:
        known = f"not one of the classes ({listing(classes)})"
        raise UserError(f"{where}: '{name}' is {known}{nearest(name, classes)}")
    return classes.index(name)


# Pictures by name


def list_folder(folder: Path) -> list[Path]:
    """What lies in `folder`, sorted; without hidden things and what macOS adds to archives."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.glob("[!.]*")) if path.name != "__MACOSX"]


def find_pictures(folder: Path) -> dict[str, Path]:
    """All pictures below `folder`, by their path there without its ending; sorted."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; the pictures belong there")
    found: dict[str, Path] = {}
    for file in images.find(folder):
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise UserError(
                f"{file}: has the name of {found[name].name} but for the ending, so one label "
                "file would serve both; rename one of them"
            )
        found[name] = file
    return found


def find_listed(source: Path, lines: Sequence[str], found: Mapping[str, Path]) -> list[str]:
    """The keys of `found` that a list file names, with or without the ending of the picture.

    A list may also have paths, as `images/a.jpg`, and that of the mask behind each, as CamVid's.

    Args:
        source: the list file, for messages.
        lines: what it says.
        found: the pictures, see `find_pictures`.
    """
    endings = {name: name for name in found}
    endings |= {name + file.suffix: name for name, file in found.items()}

    def key_of(line: str) -> str:
        for name in (line, *line.split()[:1]):
            name = name.replace("\\", "/")
            behind = re.split(r"(?:^|/)(?:images|JPEGImages)/", name, maxsplit=1)[-1]
            if key := endings.get(name) or endings.get(behind):
                return key
        return ""

    keys = [key_of(line) for line in lines]
    missing = [line for line, key in zip(lines, keys, strict=True) if not key]
    if missing:
        folder = f" in {next(iter(found.values())).parent}" if found else ""
        raise UserError(f"{source}: {len(missing)} pictures are not{folder}: {listing(missing)}")
    refuse_repeated(keys, f"{source}: names a picture twice")
    return keys


def below(root: Path, file: Path) -> str:
    """Path from `root` to a file with forward slashes, whose hash chooses the split."""
    text, start = str(file), os.path.join(root, "")
    if text.startswith(start) and ".." not in text:  # nearly always, and much sooner found
        return text.removeprefix(start).replace(os.sep, "/")
    return Path(os.path.relpath(file, root)).as_posix()


def find_existing(name: str, folders: Iterable[Path]) -> Path | None:
    """The file or folder of that name in the first of the folders that has it.

    Absolute paths, `~` and Windows' backslashes are understood.
    """
    name = os.path.expanduser(name)
    for text in dict.fromkeys((name, name.replace("\\", "/"))):
        for folder in folders:
            if text.strip() and os.path.exists(folder / text):
                return folder / text
    return None


def find_named(
    source: Path,
    names: Sequence[str],
    folders: Sequence[Path],
    root: Path,
    split: str | None = None,
    places: Sequence[str] = (),
) -> list[Path]:
    """The picture files that a label file names, in their order.

    They are looked for in `folders`. The rest, written on another machine or without their endings
    (`C:\\set\\train\\a.jpg`, `../upload/a.jpg`, `a`), may lie anywhere below `root`, but not in the
    folder of another split: the one whose path ends like the one given is taken.

    Args:
        source: the label file.
        names: of the pictures, as it says them.
        folders: that they may be relative to, likeliest first.
        root: of the set.
        split: which these pictures are, if that is known.
        places: where in the label file each name stands, for messages.

    Raises:
        UserError: a picture is not there, or two fit equally well.
    """
    files = [find_existing(name, folders) for name in names]
    lost = [index for index, file in enumerate(files) if not (file and file.is_file())]
    called_so: dict[str, list[Path]] = defaultdict(list)
    for file in images.find(root) if lost else []:
        for key in {file.name, file.stem}:
            called_so[key].append(file)
    missing: list[str] = []
    moved: list[str] = []
    for index in lost:
        path = PurePosixPath(names[index].strip().replace("\\", "/"))
        # A split that the path names, or else that of the label file, is not mistaken for another.
        own = next(filter(None, map(called, reversed(path.parent.parts))), split)
        fitting: dict[int, list[Path]] = defaultdict(list)
        for file in called_so.get(path.name, []):
            parts = file.relative_to(root).parts[:-1]
            if own and any(called(part) not in (None, own) for part in parts):
                continue
            same = zip(reversed(parts), reversed(path.parent.parts), strict=False)
            fitting[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], same))].append(file)
        best = fitting[max(fitting)] if fitting else []
        if len(best) > 1:
            where = places[index] if places else source
            raise UserError(
                f"{where}: '{names[index]}' is not there, and several pictures fit: "
                f"{listing(best)}; write one of these paths, relative to {root}"
            )
        files[index] = best[0] if best else None
        at = f"{places[index]}: " if places and not best else ""
        (moved if best else missing).append(at + names[index])
    if missing:
        searched = listing(f"{folder}/" for folder in folders)
        raise UserError(
            f"{source}: {len(missing)} pictures are missing: {listing(missing, most=3)}; "
            f"looked for in {searched}"
        )
    if moved:
        log.info(
            "%s: %d pictures lie elsewhere than it says and were found by the end of their paths, "
            "as %s for '%s'",
            *(source, len(moved), files[names.index(moved[0])], moved[0]),
        )
    return [file for file in files if file]


# Numbers and boxes


def as_numbers(values: Sequence[Any], where: str) -> list[float]:
    """The values as finite floats."""
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise UserError(f"{where}: numbers belong there, and not: {listing(map(str, values))}")
    return found


def as_boxes(source: Path, pictures: Iterable[Sequence[Object]]) -> list[Boxes]:
    """The target of each picture; objects of no width or height are left out, with a warning.

    Args:
        source: the file or folder of the labels, for the warning.
        pictures: the objects of each; none is fine.
    """
    flat, targets = [], []
    for objects in pictures:
        corners = np.array([one.corners for one in objects], np.float32).reshape(-1, 4)
        labels = np.array([one.label for one in objects], np.int64)
        ignored = np.array([one.ignored for one in objects], np.uint8)
        solid = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        flat += [one.where for one, kept in zip(objects, solid, strict=True) if not kept]
        targets.append(Boxes(corners[solid], labels[solid], ignored[solid]))
    if flat:
        log.warning(
            "%s: %d boxes of no size were left out: %s", source, len(flat), listing(flat, most=3)
        )
    return targets


def compare_sizes(source: Path, stated: Mapping[Path, tuple[float, float]]) -> None:
    """Warn of pictures of other sizes than the label files state: boxes may lie elsewhere there.

    So it is with pictures that were made smaller after they had been labelled, or that were
    labelled lying on their sides. Pictures that cannot be read are left to those who decode them.
    """
    others = []
    for file, (width, height) in stated.items():
        try:
            wide, high = images.dimensions(file)
        except images.ImageError:
            continue
        if (wide, high) != (width, height):
            others.append(f"{file.name} (stated {width:g}x{height:g}, upright {wide}x{high})")
    if others:
        log.warning(
            "%s: %d pictures have another size than stated, so boxes may lie wrong: %s",
            *(source, len(others), listing(others, most=3)),
        )
