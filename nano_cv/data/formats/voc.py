"""PASCAL VOC: `JPEGImages/`, an XML file of boxes or a palette PNG each, lists in `ImageSets/`.

Or pictures and XML files as labelImg and Roboflow leave them: see `pairs_of`.

Pixels are counted from 1 and the last one is inside, so a box from 1 to 2 is two pixels wide; here
it is from 0 to 2.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn
from xml.etree import ElementTree

from nano_cv.data import images
from nano_cv.data.formats import reading
from nano_cv.data.formats.folder_masks import meaning_of
from nano_cv.data.formats.reading import Object
from nano_cv.data.formats.splitting import called, complete
from nano_cv.data.pictures import COUNTED, DIFFICULT, Pictures
from nano_cv.errors import UserError, listing

log = logging.getLogger(__name__)
SETS = {"detection": "Main", "segmentation": "Segmentation"}
CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
]  # fmt: skip
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Voc(Pictures):
    """One split of a set for detection or segmentation.

    The classes are those of `classes.txt`, one a line; without that file, for detection all names
    that occur in any split, sorted, and for segmentation the 21 of VOC with the background first.
    For detection `background` is no class. Objects marked as difficult are not learnt, and what is
    predicted there is neither right nor false; a name that only they have is no class. The second
    column of a list is passed over.

    A split without a list is taken out of `train` by the hash of the file names; without any list,
    all three are taken out of the pictures that are labelled.

    Args:
        root: folder with `JPEGImages/`, `Annotations/*.xml` and `ImageSets/Main/<split>.txt`, or
            `SegmentationClass/*.png` and `ImageSets/Segmentation/<split>.txt`; for detection also
            with pictures and XML files side by side.
        split: `train`, `val` or `test`.
        task: `detection` or `segmentation`.

    Raises:
        UserError: files missing or not as they should be; names the file and the object.
    """

    def __init__(self, root: str | Path, split: str, task: str = "detection") -> None:
        reading.serves("PASCAL VOC", task, *SETS)
        root, own, notice = Path(root), Path(root) / "classes.txt", split == "train"
        given = reading.class_names(own) if own.exists() else []
        pairs = pairs_of(root, task, notice)
        found = complete(pairs, root, lambda pair: reading.below(root, pair[0]), notice=notice)
        files = [file for file, _ in found[split]]
        if task == "segmentation":
            masks = [mask for _, mask in found[split]]
            missing = [str(mask) for mask in masks if not mask.exists()]
            if missing:
                raise UserError(f"{len(missing)} masks are missing: {listing(missing, most=3)}")
            names, self.meaning = meaning_of(root, given, say=split == "train")
            super().__init__(root, files, masks, names or CLASSES)
            return
        given = [name for name in given if name != "background"]
        labelled = {
            one: [read(label) for _, label in found[one]] for one in ([split] if given else found)
        }
        every = [one for some in labelled.values() for file in some for one in file.objects]
        counted = {one.name for one in every if one.ignored == COUNTED}
        classes = given or reading.different(sorted(counted), root)
        objects = [
            [
                Object(box, reading.class_index(name, classes, where), where, ignored)
                for name, box, where, ignored in one.objects
                if ignored == COUNTED or name in classes
            ]
            for one in labelled[split]
        ]
        sizes = dict(zip(files, (one.size for one in labelled[split]), strict=True))
        folder = found[split][0][1].parent if files else root
        reading.compare_sizes(folder, {file: size for file, size in sizes.items() if all(size)})
        super().__init__(root, files, reading.boxes_of(folder, objects), classes)


Pairs = list[tuple[Path, Path]]  # of pictures and their XML files or masks


def pairs_of(root: Path, task: str, notice: bool) -> dict[str, Pairs]:
    """The pictures of each split that there is, with their labels; without splits as `train`.

    Splits are the lists of `ImageSets/`, or folders such as `train/`. In each folder the pictures
    lie in `JPEGImages/` or `images/` and the XML files in `Annotations/`, or all side by side.
    """
    if not root.is_dir():
        raise UserError(f"{root}/JPEGImages: no such folder; the pictures belong there")
    if task == "segmentation" or (root / "JPEGImages").is_dir():
        found = reading.pictures_in(root / "JPEGImages")
        lists = lists_of(root, SETS[task], found)
        folder, ending = root / "Annotations", ".xml"
        if task == "segmentation":
            folder, ending = root / "SegmentationClass", ".png"
        if lists:
            return {
                split: [(found[name], folder / f"{name}{ending}") for name in names]
                for split, names in lists.items()
            }
        return {"train": matched(found, folder, ending, root, notice)}
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir()]
    splits: dict[str, Pairs] = {}
    for folder in folders:
        if split := called(folder.name):
            splits.setdefault(split, []).extend(side_by_side(folder, notice))
    return splits or {"train": side_by_side(root, notice)}


def side_by_side(folder: Path, notice: bool) -> Pairs:
    """The pictures in a folder, or in `images/` there, that have XML files."""
    inside = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    pictures = next((inside[name] for name in ("jpegimages", "images") if name in inside), folder)
    labels = next(
        (inside[name] for name in ("annotations", "labels", "xml") if name in inside), pictures
    )
    return matched(reading.pictures_in(pictures), labels, ".xml", folder, notice)


def matched(
    found: Mapping[str, Path], folder: Path, ending: str, source: Path, notice: bool
) -> Pairs:
    """The pictures that have a label of the same name; what has no other half is named.

    A picture without an XML file is left out: programs that write them write one for a picture
    without objects too, so its objects may not have been marked yet.
    """
    labels = {
        file.relative_to(folder).with_suffix("").as_posix(): file
        for file in images.find(folder, (ending,))
    }
    for sort, lonely in (
        ("pictures without a label", [found[name] for name in found if name not in labels]),
        ("labels without a picture", [labels[name] for name in labels if name not in found]),
    ):
        if lonely and notice:
            names = listing(file.name for file in lonely)
            log.warning("%s: %d %s were left out: %s", source, len(lonely), sort, names)
    pairs = [(found[name], labels[name]) for name in found if name in labels]
    if not pairs:
        raise UserError(
            f"{folder}: no label NAME{ending} for any of the {len(found)} pictures; known are "
            "JPEGImages/ with Annotations/, or pictures and XML files side by side"
        )
    return pairs


def lists_of(root: Path, kind: str, found: dict[str, Path]) -> dict[str, list[str]]:
    """The names of the pictures of each split that has a list in `ImageSets/`.

    VOC's `trainval` is what `train` and `val` have together.
    """
    folder = root / "ImageSets" / kind
    lists: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.txt")) if folder.is_dir() else []:
        split = called(file.stem)
        if split in lists:
            raise UserError(f"{file}: another list is the split '{split}' too; leave one of them")
        if split:
            lists[split] = listed(file, found)
    both = folder / "trainval.txt"
    if "train" not in lists and both.is_file():
        others = {name for names in lists.values() for name in names}
        lists["train"] = [name for name in listed(both, found) if name not in others]
    return lists


def listed(source: Path, found: dict[str, Path]) -> list[str]:
    """The pictures of a list, one a line; lists of a class have a column of -1, 0 and 1 behind."""
    names = [
        line if line in found else re.sub(r"\s+(-1|0|1)$", "", line)
        for line in reading.lines(source)
    ]
    return reading.chosen(source, names, found)


class Named(NamedTuple):
    """An object as `reading.Object`, with the name of its class."""

    name: str
    corners: tuple[float, float, float, float]
    where: str
    ignored: int


class Labelled(NamedTuple):
    """What an XML file says: width and height or zeros, and the objects."""

    size: tuple[float, float]
    objects: list[Named]


class Tree(ElementTree.TreeBuilder):
    """XML without a document type: what one declares may be as long as the memory."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        """Called where there is one, before what it declares."""
        raise ValueError("a document type (<!DOCTYPE ...>) is not read; take that line out")


def parse(file: Path) -> ElementTree.Element:
    """The root of an XML file; the tags have no namespace."""
    try:
        tree = ElementTree.parse(file, ElementTree.XMLParser(target=Tree())).getroot()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter: its encoding
        raise UserError(f"{file}: not XML: {error}") from error
    for one in tree.iter():
        one.tag = str(one.tag).rpartition("}")[2]
    return tree


def read(file: Path) -> Labelled:
    """The objects of an XML file, those that are difficult among them; boxes in pixels from 0."""
    tree = parse(file)
    objects = []
    for number, one in enumerate(tree.iter("object"), start=1):
        where = f"{file}: object {number}"
        name = one.findtext("name", "").strip()
        if not name:
            raise UserError(f"{where}: has no <name>")
        difficult = one.findtext("difficult", "0").strip().lower() in {"1", "true"}
        left, top, right, bottom = corners_of(one, f"{where} ({name})")
        corners = (left - 1, top - 1, right, bottom)
        objects.append(Named(name, corners, where, DIFFICULT if difficult else COUNTED))
    size = [tree.findtext(f"size/{side}") or "0" for side in ("width", "height")]
    width, height = reading.numbers(size, f"{file}: size")
    return Labelled((width, height), objects)


def corners_of(one: ElementTree.Element, where: str) -> list[float]:
    """Left, top, right and bottom of an object, from its box or else its polygon."""
    polygon = one.find("polygon")
    if one.find("bndbox") is None and polygon is not None:
        points: dict[str, list[float]] = {"x": [], "y": []}  # <x1>, <y1>, ... or <pt><x>, <y>
        for point in polygon.iter():
            if re.fullmatch(r"[xy]\d*", point.tag):
                points[point.tag[0]] += reading.numbers([point.text], f"{where}, polygon")
        if points["x"] and len(points["x"]) == len(points["y"]):
            return [*map(min, points.values()), *map(max, points.values())]
    given = [one.findtext(f"bndbox/{corner}", "nothing") for corner in CORNERS]
    return reading.numbers(given, f"{where}, {listing(CORNERS)}")
