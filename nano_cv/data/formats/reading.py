"""Functions for the readers of all formats: text files, class names, images by name, boxes."""

import codecs
import logging
import math
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np
import yaml

from nano_cv.data import images, store
from nano_cv.data.formats import splitting
from nano_cv.data.formats.splitting import Sample, called, normal
from nano_cv.data.targets import COUNTED, Boxes
from nano_cv.errors import UserError, listing, nearest

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the upright image
log = logging.getLogger(__name__)
Item = TypeVar("Item", bound=Hashable)
PICTURES = ("images", "jpegimages")  # folders beside which folders of labels lie


class Object(NamedTuple):
    """Labelled object in an image."""

    corners: Box
    label: int  # class index
    where: str  # label file and position in the file, for messages
    ignored: int = COUNTED  # whether the object counts, see `Boxes`
    outline: Any = None  # polygons of x1 y1 x2 y2 ... in pixels, or COCO's runs; or None


def check_task(layout: str, task: str, *tasks: str) -> None:
    """Raise a `UserError` if the layout has no targets for the task."""
    if task not in tasks:
        raise UserError(f"{layout} has targets for {listing(tasks)}, and the task is {task}")


# Files


def read_bytes(file: Path) -> bytes:
    """Read the bytes of a file; if the file is missing, the error lists similar files beside it."""
    try:
        return file.read_bytes()
    except OSError as error:
        beside = sorted(path.name for path in file.parent.glob(f"[!.]*{file.suffix}"))
        hint = f"; beside it there is: {listing(beside)}" if beside else ""
        raise UserError(f"{file}: cannot be read: {error.strerror}{hint}") from error


def read_text(file: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte-order mark; see `normal`."""
    content = read_bytes(file)
    # Programs of Windows put a mark in front: PowerShell the UTF-16 mark, editors the UTF-8 mark.
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return normal(content.decode("utf-16" if wide else "utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}: line {line} is not UTF-8 text; save it as UTF-8, which spreadsheets call "
            "'CSV UTF-8'"
        ) from error


def read_lines(file: Path) -> list[str]:
    """Read the lines of a text file, without empty lines and without space around lines."""
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


@contextmanager
def well_formed(file: Path, form: str) -> Iterator[None]:
    """Turn errors of JSON, YAML and XML parsers into a `UserError` with the file's name.

    Parsers also fail at numbers of too many digits, the 30th of February, endless brackets, and
    unknown encodings.
    """
    try:
        yield
    except (ValueError, LookupError, RecursionError, SyntaxError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not {form}: {error}") from error


# Names of classes


def read_classes(file: Path) -> list[str]:
    """Read class names from a file with a name per line; drops numbers as in `0 background`."""
    names = read_lines(file)
    numbered = [name.split(maxsplit=1) for name in names]
    if all(len(parts) == 2 and parts[0] == str(i) for i, parts in enumerate(numbered)):
        names = [name for _, name in numbered]
    elif all(len(parts) == 2 and parts[0] == str(i) for i, parts in enumerate(numbered, start=1)):
        log.warning("%s: numbered from 1, yet labels begin with 0: 0 is '%s'", file, names[0])
    return check_class_names(names, file)


def check_class_names(names: Sequence[str], source: Path) -> list[str]:
    """Return the class names as a list; refuses an empty list, and empty and repeated names."""
    if not names or not all(names):
        raise UserError(f"{source}: no class names, or an empty one")
    refuse_repeated(names, f"{source}: the same class twice")
    return list(names)


def refuse_repeated(items: Iterable[Item], fault: str) -> None:
    """Raise a `UserError` that begins with `fault` if an item occurs more than once."""
    if twice := repeated(items):
        raise UserError(f"{fault}: {listing(twice)}")


def repeated(items: Iterable[Item]) -> list[Item]:
    """Return the items that occur more than once."""
    return [item for item, count in Counter(items).items() if count > 1]


def sort_classes(names: Iterable[str], source: Path) -> list[str]:
    """Sort class names; if all are numbers, sort them as numbers, with a warning."""
    by_name = sorted(names)
    if not all(map(str.isdecimal, by_name)):
        return by_name
    by_number = sorted(by_name, key=int)
    if by_number != by_name:
        log.warning("%s: classes are numbers and sorted as such: %s", source, listing(by_number))
    return by_number


def class_index(name: str, classes: Sequence[str], where: str) -> int:
    """Return the position of a class name; a `UserError` suggests the nearest spelling."""
    if name not in classes:
        known = f"not one of the classes ({listing(classes)})"
        raise UserError(f"{where}: '{name}' is {known}{nearest(name, classes)}")
    return classes.index(name)


# Pictures by name


def list_folder(folder: Path) -> list[Path]:
    """List a folder, sorted, without hidden files and macOS's `__MACOSX`; empty if it is none."""
    return [path for path in sorted(folder.glob("[!.]*")) if path.name != "__MACOSX"]


def find_pictures(folder: Path) -> dict[str, Path]:
    """Find all images below `folder`, by their `normal` relative path without ending, sorted."""
    if not folder.is_dir():
        beside = listing(path.name for path in list_folder(folder.parent) if path.is_dir())
        hint = f"; beside it there is: {beside}" if beside else ""
        raise UserError(f"{folder}: no such folder, and pictures belong there{hint}")
    pictures: dict[str, Path] = {}
    for file in images.find(folder):
        name = normal(file.relative_to(folder).with_suffix("").as_posix())
        if name in pictures:
            raise UserError(
                f"{file}: has the name of {pictures[name].name} but for the ending, so one label "
                "file would serve both; rename one of them"
            )
        pictures[name] = file
    return pictures


def find_listed(source: Path, pictures: Mapping[str, Path]) -> list[str]:
    """Return the keys of `pictures` that a list file names, with or without endings.

    A line may also be a path such as `images/a.jpg`, and have a second column: the path of a mask,
    as in CamVid, or -1, 0 or 1 in the list of a class, as in VOC.
    """
    endings = {name: name for name in pictures}
    endings |= {name + file.suffix: name for name, file in pictures.items()}

    def key_of(line: str) -> str:
        for name in (line, *line.rsplit(maxsplit=1)[:1]):
            name = name.replace("\\", "/")
            behind = re.split(r"(?:^|/)(?:images|JPEGImages)/", name, maxsplit=1)[-1]
            # `test/a.jpg` of `/old/test/images/a.jpg`, a path on the machine of its maker
            parts = re.sub(r"(^|/)images/", r"\1", "" if " " in name else name).split("/")
            ends = ["/".join(parts[start:]) for start in range(len(parts) - 1)]
            if key := next(filter(None, map(endings.get, (name, behind, *ends))), ""):
                return key
        return ""

    lines = read_lines(source)
    keys = [key_of(line) for line in lines]
    if missing := [line for line, key in zip(lines, keys, strict=True) if not key]:
        folder = f" in {next(iter(pictures.values())).parent}" if pictures else ""
        raise UserError(f"{source}: {len(missing)} pictures are not{folder}: {listing(missing)}")
    refuse_repeated(keys, f"{source}: names a picture twice")
    return keys


def read_lists(folder: Path, pictures: Mapping[str, Path]) -> dict[str, list[str]]:
    """Read the list file of each split in `folder`, such as `val.txt`; see `find_listed`."""
    files = splitting.one_by_split(folder.glob("*.txt"))
    return {split: find_listed(file, pictures) for split, file in files.items()}


def find_labels(
    pictures: Iterable[Path], ending: str, folders: Sequence[str], others: Sequence[str] = ()
) -> dict[Path, Path]:
    """Find the label file of each image; an image without one is left out.

    It has the name of the image but for the ending, and lies beside it; or, for an image below a
    folder `images/` or `JPEGImages/`, at the same place below a folder beside that. `folders` are
    possible names of that folder, in lower case. Warns of label files without an image, unless
    their names begin with one of `others`. Refuses a label file of several images.
    """
    pictures = list(dict.fromkeys(pictures))
    inside = {picture.parent for picture in pictures}
    known = {folder: _labels_for(folder, ending, folders) for folder in inside}
    labels = {p: file for p in pictures if (file := known[p.parent].get(normal(p.stem)))}
    for label in repeated(labels.values()):
        alike = [picture.name for picture, path in labels.items() if path == label]
        raise UserError(f"{label}: would serve all of {listing(alike)}; rename the pictures apart")
    beside = {file for folder in {p.parent for p in labels} for file in known[folder].values()}
    unused = sorted(beside - set(labels.values()))
    every = (file for folder in inside for file in images.find(folder)) if unused else ()
    seen = {normal(file.stem) for file in every}
    lonely = [
        file.name
        for file in unused
        if not (normal(file.stem) in seen or splitting.called(file.stem))
        and not file.stem.lower().startswith(tuple(others))
    ]
    if lonely:
        log.warning("%d label files without a picture: %s", len(lonely), listing(lonely))
    return labels


def _labels_for(folder: Path, ending: str, folders: Sequence[str]) -> dict[str, Path]:
    """Return the label files for the images of a folder, by name without ending."""
    parts, places = folder.parts, [folder]
    at = max((n for n, part in enumerate(parts) if part.lower() in PICTURES), default=None)
    if at is not None:
        beside = [path for path in list_folder(Path(*parts[:at])) if path.name.lower() in folders]
        places += [path.joinpath(*parts[at + 1 :]) for path in beside]
    files = [file for place in places for file in list_folder(place)]
    return {normal(file.stem): file for file in files if file.suffix.lower() == ending}


def below(root: Path, file: Path | str) -> str:
    """Return the path from `root` to a file with forward slashes; its hash chooses the split."""
    text, start = str(file), str(root).rstrip(os.sep) + os.sep
    if text.startswith(start) and ".." not in text:  # the usual case, much faster than `relpath`
        return text.removeprefix(start).replace(os.sep, "/")
    return Path(os.path.relpath(file, root)).as_posix()


def as_samples(root: Path, files: Sequence[Path], targets: Sequence[Any]) -> list[Sample]:
    """Return images with their targets, named by their paths from `root`."""
    pairs = zip(files, targets, strict=True)
    return [Sample(file, target, below(root, file)) for file, target in pairs]


def find_existing(name: str, folders: Iterable[Path]) -> Path | None:
    """Find the file or folder `name` in the first of the folders that has it; None if none does.

    Absolute paths, `~`, Windows' backslashes and both forms of accented letters are understood.
    """
    name = os.path.expanduser(name)
    texts = [name, name.replace("\\", "/")]
    if not name.isascii():
        texts += [unicodedata.normalize(form, text) for form in ("NFC", "NFD") for text in texts]
    places = (folder / text for text in dict.fromkeys(texts) if text.strip() for folder in folders)
    return next(filter(os.path.exists, places), None)


def find_named(
    source: Path,
    names: Sequence[str],
    folders: Sequence[Path],
    root: Path,
    split: str | None = None,
    places: Sequence[str] = (),
) -> list[Path]:
    """Find the image files that a label file names, in the order of the names.

    Images are first searched in `folders`. Names of other machines or without endings
    (`C:\\set\\train\\a.jpg`, `../upload/a.jpg`, `a`) match images anywhere below `root`, except in
    the folder of another split; among several images, the longest common end of the paths decides.
    An image without a common end is refused if the folder that the label file names is there.
    So is a missing image, or one of two that fit equally well. `places` are the positions of the
    names in the label file, for messages.
    """
    files = [find_existing(name, folders) for name in names]
    lost = [index for index, file in enumerate(files) if not (file and file.is_file())]
    called_so: dict[str, list[Path]] = defaultdict(list)
    for file in images.find(root) if lost else []:
        for key in {_plain(file.name), _plain(file.stem)}:
            called_so[key].append(file)
    missing: list[str] = []
    moved: list[str] = []
    guessed: list[str] = []
    for index in lost:
        path = PurePosixPath(normal(names[index].strip().replace("\\", "/")))
        above = [part for part in path.parent.parts if part not in ("/", "..")]
        # The split in the path, or else the split of the label file, excludes images of others.
        own = next(filter(None, map(called, reversed(path.parent.parts))), split)
        fitting: dict[int, list[Path]] = defaultdict(list)
        alike = called_so.get(_plain(path.name), [])
        exact = [file for file in alike if path.name in (normal(file.name), normal(file.stem))]
        for file in exact or alike:
            parts = file.relative_to(root).parts[:-1]
            if own and any(called(part) not in (None, own) for part in parts):
                continue
            same = zip(reversed(parts), reversed(path.parent.parts), strict=False)
            equal = takewhile(lambda pair: _plain(pair[0]) == _plain(pair[1]), same)
            fitting[sum(1 for _ in equal)].append(file)
        common = max(fitting, default=0)
        ends = ["/".join(above[start:]) for start in range(len(above))]
        if fitting and not common and any(find_existing(end, [root, *folders]) for end in ends):
            fitting.clear()
        best = fitting[common]
        if len(best) > 1:
            where = places[index] if places else source
            raise UserError(
                f"{where}: '{names[index]}' is not there, and several pictures fit: "
                f"{listing(best)}; write one of these paths, relative to {root}"
            )
        files[index] = best[0] if best else None
        at = f"{places[index]}: " if places and not best else ""
        sure = common or (best and not above and best[0].parent in folders)
        (missing if not best else moved if sure else guessed).append(at + names[index])
    if missing:
        searched = listing(f"{folder}/" for folder in folders)
        raise UserError(
            f"{source}: {len(missing)} pictures are missing: {listing(missing, most=3)}; "
            f"looked for in {searched}"
        )
    for level, relocated in ((logging.INFO, moved), (logging.WARNING, guessed)):
        if relocated:
            log.log(
                level,
                "%s: %d pictures lie elsewhere than it says and were found by the end of their "
                "paths, as %s for '%s'",
                *(source, len(relocated), files[names.index(relocated[0])], relocated[0]),
            )
    return [file for file in files if file]


def _plain(name: str) -> str:
    return normal(name).lower()  # Windows takes A.JPG for a.jpg


def warn_of_unused(source: Path, used: Iterable[Path | str]) -> None:
    """Warn of pictures that lie beside those of the set, and that no label file or list names."""
    known: dict[str, set[str]] = defaultdict(set)
    real = cache(os.path.realpath)
    for file in used:
        folder, name = os.path.split(file)
        known[real(folder)].add(_plain(name))
    unused = [
        os.path.join(folder, name)
        for folder, names in sorted(known.items())
        for name in sorted(os.listdir(folder))
        if name.lower().endswith(images.EXTENSIONS) and _plain(name) not in names
        if not name.startswith(".")
    ]
    warn_of(source, "pictures are in no list and have no label, so they are not used", unused)


def warn_of(source: Path, what: str, places: Sequence[str]) -> None:
    """Warn, if there are any, of what holds for some pictures or objects, and name three."""
    if places:
        log.warning("%s: %d %s: %s", source, len(places), what, listing(places, most=3))


# Numbers and boxes


def as_numbers(values: Sequence[Any], where: str) -> list[float]:
    """Return the values as finite floats; raises a `UserError` if that fails."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{where}: numbers belong there, and not: {listing(map(str, values))}")
    return numbers


def check_pixels(source: Path, numbers: Iterable[float]) -> None:
    """Refuse coordinates that all lie within two pixels: these are shares of the picture."""
    largest = 0.0
    for number in numbers:
        if number >= 2:  # as a rule the first object shows it
            return
        largest = max(largest, number)
    if largest > 0:
        raise UserError(f"{source}: no coordinate is above 1; pixels are needed, not shares")


def as_boxes(source: Path, pictures: Sequence[Sequence[Object]]) -> list[Boxes]:
    """Return the boxes of each image; drops copies, and boxes of no size, with a warning."""
    check_pixels(source, (edge for labels in pictures for item in labels for edge in item.corners))
    flat, copies, targets = [], [], []
    for annotations in pictures:
        distinct = {(item.corners, item.label, item.ignored): item for item in annotations}
        objects, kept = list(distinct.values()), set(map(id, distinct.values()))
        copies += [item.where for item in annotations if id(item) not in kept]
        corners = np.array([item.corners for item in objects], np.float32).reshape(-1, 4)
        # Some tools write the corners in the order in which they were clicked.
        corners = np.sort(corners.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        labels = np.array([item.label for item in objects], np.int64)
        ignored = np.array([item.ignored for item in objects], np.uint8)
        solid = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        flat += [item.where for item, whole in zip(objects, solid, strict=True) if not whole]
        targets.append(Boxes(corners[solid], labels[solid], ignored[solid]))
    warn_of(source, "boxes of no size were left out", flat)
    warn_of(source, "copies of a box were left out", copies)
    return targets


def turned(box: Box, angle: object) -> Box:
    """Return the upright box around a box that is turned about its centre, as CVAT writes one."""
    if not angle:
        return box
    try:
        turn = math.radians(float(str(angle)) % 360)
    except ValueError:  # no angle, but an attribute of one's own that has the same name
        return box
    x1, y1, x2, y2 = box
    cosine, sine = abs(math.cos(turn)), abs(math.sin(turn))
    width, height = abs(x2 - x1), abs(y2 - y1)
    right, down = (width * cosine + height * sine) / 2, (width * sine + height * cosine) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - right, y - down, x + right, y + down


def size_of(file: Path) -> tuple[int, int] | None:
    """Return width and height of an upright image, read once; None if it cannot be read."""
    return _measure(file, store.stamp(file, os.getcwd()))


@lru_cache(2**17)
def _measure(file: Path, stamp: str) -> tuple[int, int] | None:
    """Measure an image; `stamp` is another one when the file has changed."""
    try:
        return images.dimensions(file)
    except images.ImageError:  # decoding reports it later
        return None


def compare_sizes(source: Path, stated: Mapping[Path, tuple[Any, Any]]) -> None:
    """Warn of images of other sizes than the label files state, for their boxes may be wrong.

    This happens to images that were resized after labelling, or that were labelled lying on their
    sides. Skipped are sizes that are 0 or no numbers, and images that cannot be read, of which
    decoding raises an error later.
    """
    others = []
    for file, (width, height) in stated.items():
        known = all(isinstance(side, int | float) and side for side in (width, height))
        if known and (size := size_of(file)) and size != (width, height):
            wide, high = size
            others.append(f"{file.name} (stated {width:g}x{height:g}, upright {wide}x{high})")
    warn_of(source, "pictures have another size than stated, so boxes may lie wrong", others)
