"""Reader of PASCAL VOC: `JPEGImages/`, XML files of boxes or palette PNGs, lists in `ImageSets/`.

Images and XML files as labelImg and Roboflow write them are read too; see `find_pairs`.

VOC counts pixels from 1, and the last pixel is inside, so a box from 1 to 2 is two pixels wide.
This reader converts such a box to 0 to 2.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from xml.etree import ElementTree

from nano_cv.data import images
from nano_cv.data.formats import reading, splitting
from nano_cv.data.formats.folder_masks import meaning_of
from nano_cv.data.formats.reading import Object
from nano_cv.data.formats.splitting import Sample
from nano_cv.data.pictures import COUNTED, DIFFICULT, Boxes, Pictures
from nano_cv.errors import UserError, listing

log = logging.getLogger(__name__)
SETS = {"detection": "Main", "segmentation": "Segmentation"}
CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
]  # fmt: skip
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(root: Path, task: str) -> dict[str, Pictures]:
    """Read a set for detection or segmentation.

    The classes are those of `classes.txt`, one per line. Without that file, they are for detection
    all names that occur in any split, sorted, and for segmentation the 21 classes of VOC with the
    background first. For detection `background` is no class. Objects marked as difficult are not
    learnt, and predictions there count as neither right nor wrong; a name that only such objects
    have is no class. The second column of a list is ignored.

    A split without a list is taken out of `train` by the hash of the file names; without any list,
    all three splits are taken out of the labelled images.

    Args:
        root: folder with `JPEGImages/`, `Annotations/*.xml` and `ImageSets/Main/<split>.txt`, or
            `SegmentationClass/*.png` and `ImageSets/Segmentation/<split>.txt`; for detection also
            with images and XML files side by side.
        task: `detection` or `segmentation`.

    Raises:
        UserError: files are missing or malformed; the message names the file and the object.
    """
    reading.check_task("PASCAL VOC", task, *SETS)
    own = root / "classes.txt"
    classes, meaning = reading.read_classes(own) if own.exists() else [], images.INDICES
    pairs = find_pairs(root, task)
    if task == "segmentation":
        every = [mask for some in pairs.values() for _, mask in some]
        if missing := [mask for mask in every if not mask.exists()]:
            raise UserError(f"{len(missing)} masks are missing: {listing(missing, most=3)}")
        classes, meaning = meaning_of(root, classes)
        classes = classes or CLASSES
        targets: Mapping[str, Sequence[Any]] = {
            split: [mask for _, mask in some] for split, some in pairs.items()
        }
    else:
        classes, targets = read_boxes(pairs, [one for one in classes if one != "background"], root)
    samples = {
        split: [
            Sample(file, target, reading.below(root, file))
            for (file, _), target in zip(some, targets[split], strict=True)
        ]
        for split, some in pairs.items()
    }
    return splitting.as_pictures(root, splitting.complete(samples, root), classes, meaning)


Pairs = list[tuple[Path, Path]]  # images with their XML files or masks


def read_boxes(
    pairs: Mapping[str, Pairs], classes: list[str], root: Path
) -> tuple[list[str], dict[str, list[Boxes]]]:
    """Return class names (from the labels if `classes` is empty) and the boxes of each split."""
    labelled = {split: [read_xml(label) for _, label in some] for split, some in pairs.items()}
    every = [one for some in labelled.values() for file in some for one in file.objects]
    if not classes:
        counted = {one.name for one in every if one.ignored == COUNTED}
        classes = reading.check_class_names(sorted(counted), root)
    targets = {}
    for split, some in labelled.items():
        files = [file for file, _ in pairs[split]]
        folder = pairs[split][0][1].parent if files else root
        objects = [
            [
                Object(box, reading.class_index(name, classes, where), where, ignored)
                for name, box, where, ignored in one.objects
                if ignored == COUNTED or name in classes
            ]
            for one in some
        ]
        sizes = {file: one.size for file, one in zip(files, some, strict=True) if all(one.size)}
        reading.compare_sizes(folder, sizes)
        targets[split] = reading.as_boxes(folder, objects)
    return classes, targets


# Where pictures and labels lie


def find_pairs(root: Path, task: str) -> dict[str, Pairs]:
    """Find the images of each existing split with their labels; without splits, all as `train`.

    Splits are the lists of `ImageSets/`, or folders such as `train/`. In each folder the images lie
    in `JPEGImages/` or `images/` and the XML files in `Annotations/`, or all side by side.
    """
    if not root.is_dir():
        raise UserError(f"{root}/JPEGImages: no such folder; the pictures belong there")
    if task == "segmentation" or (root / "JPEGImages").is_dir():
        found = reading.find_pictures(root / "JPEGImages")
        lists = read_lists(root, SETS[task], found)
        folder, ending = root / "Annotations", ".xml"
        if task == "segmentation":
            folder, ending = root / "SegmentationClass", ".png"
        if lists:
            return {
                split: [(found[name], folder / f"{name}{ending}") for name in names]
                for split, names in lists.items()
            }
        return {"train": pair_by_name(found, folder, ending, root)}
    folders = [path for path in reading.list_folder(root) if path.is_dir()]
    splits = {
        split: [pair for folder in some for pair in side_by_side(folder)]
        for split, some in splitting.group_by_split(folders).items()
    }
    return splits or {"train": side_by_side(root)}


def side_by_side(folder: Path) -> Pairs:
    """Find the images with XML files in a folder, or in `images/` and `annotations/` there."""
    inside = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    pictures = next((inside[name] for name in ("jpegimages", "images") if name in inside), folder)
    labels = next(
        (inside[name] for name in ("annotations", "labels", "xml") if name in inside), pictures
    )
    return pair_by_name(reading.find_pictures(pictures), labels, ".xml", folder)


def pair_by_name(found: Mapping[str, Path], folder: Path, ending: str, source: Path) -> Pairs:
    """Pair images with labels of the same name; warns of images and labels without a partner.

    An image without an XML file is left out: labelling programs write a file even for an image
    without objects, so the image is probably not labelled yet.
    """
    labels = {
        file.relative_to(folder).with_suffix("").as_posix(): file
        for file in images.find(folder, (ending,))
    }
    for sort, lonely in (
        ("pictures without a label", [found[name] for name in found if name not in labels]),
        ("labels without a picture", [labels[name] for name in labels if name not in found]),
    ):
        if lonely:
            names = listing(file.name for file in lonely)
            log.warning("%s: %d %s were left out: %s", source, len(lonely), sort, names)
    pairs = [(found[name], labels[name]) for name in found if name in labels]
    if not pairs:
        raise UserError(
            f"{folder}: no label NAME{ending} for any of the {len(found)} pictures; known are "
            "JPEGImages/ with Annotations/, or pictures and XML files side by side"
        )
    return pairs


def read_lists(root: Path, kind: str, found: Mapping[str, Path]) -> dict[str, list[str]]:
    """Read the names of the images of each split that has a list in `ImageSets/`.

    VOC's list `trainval` is the union of `train` and `val`.
    """
    folder = root / "ImageSets" / kind
    files = splitting.one_for_each(splitting.group_by_split(folder.glob("*.txt")))
    lists = {split: read_list(file, found) for split, file in files.items()}
    both = folder / "trainval.txt"
    if "train" not in lists and both.is_file():
        others = {name for names in lists.values() for name in names}
        lists["train"] = [name for name in read_list(both, found) if name not in others]
    return lists


def read_list(source: Path, found: Mapping[str, Path]) -> list[str]:
    """Read the images of a list, one per line; drops the column -1, 0 or 1 of a class's list."""
    lines = [
        line if line in found else re.sub(r"\s+(-1|0|1)$", "", line)
        for line in reading.read_lines(source)
    ]
    return reading.find_listed(source, lines, found)


# XML files


class Named(NamedTuple):
    """Object as in `reading.Object`, but with the name of its class."""

    name: str
    corners: tuple[float, float, float, float]
    where: str
    ignored: int


class Labelled(NamedTuple):
    """Content of an XML file: width and height of the image (0 if not stated), and the objects."""

    size: tuple[float, float]
    objects: list[Named]


class Tree(ElementTree.TreeBuilder):
    """Builder of XML trees that refuses document types, whose entities could fill the memory."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        """Refuse a document type; the parser calls this before it reads the declarations."""
        raise ValueError("a document type (<!DOCTYPE ...>) is not read; take that line out")


def read_xml(file: Path) -> Labelled:
    """Read the objects of an XML file, also difficult ones, with boxes in pixels from 0."""
    content = reading.read_bytes(file)
    with reading.well_formed(file, "XML"):
        tree = ElementTree.fromstring(content, ElementTree.XMLParser(target=Tree()))
    for one in tree.iter():
        one.tag = str(one.tag).rpartition("}")[2]  # without the namespace
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
    width, height = reading.as_numbers(size, f"{file}: size")
    return Labelled((width, height), objects)


def corners_of(one: ElementTree.Element, where: str) -> list[float]:
    """Return left, top, right and bottom of an object's box, or else of its polygon."""
    polygon = one.find("polygon")
    if one.find("bndbox") is None and polygon is not None:
        points: dict[str, list[float]] = {"x": [], "y": []}  # <x1>, <y1>, ... or <pt><x>, <y>
        for point in polygon.iter():
            if re.fullmatch(r"[xy]\d*", point.tag):
                points[point.tag[0]] += reading.as_numbers([point.text], f"{where}, polygon")
        if points["x"] and len(points["x"]) == len(points["y"]):
            return [*map(min, points.values()), *map(max, points.values())]
    given = [one.findtext(f"bndbox/{corner}", "nothing") for corner in CORNERS]
    return reading.as_numbers(given, f"{where}, {listing(CORNERS)}")
