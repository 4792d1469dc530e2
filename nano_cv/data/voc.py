"""PASCAL VOC: `JPEGImages/`, an XML file of boxes or a palette PNG each, lists in `ImageSets/`.

Pixels are counted from 1 and the last one is inside, so a box from 1 to 2 is two pixels wide; here
it is from 0 to 2.
"""

import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from nano_cv.data import reading
from nano_cv.data.folder_masks import meaning_of
from nano_cv.data.pictures import SPLITS, Pictures
from nano_cv.data.reading import Object
from nano_cv.errors import UserError, listing

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
    For detection `background` is no class. Objects marked as difficult are passed over, and so is
    the second column of a list.

    Args:
        root: folder with `JPEGImages/`, `Annotations/*.xml` and `ImageSets/Main/<split>.txt`, or
            `SegmentationClass/*.png` and `ImageSets/Segmentation/<split>.txt`.
        split: `train`, `val` or `test`.
        task: `detection` or `segmentation`.

    Raises:
        UserError: files missing or not as they should be; names the file and the object.
    """

    def __init__(self, root: str | Path, split: str, task: str = "detection") -> None:
        reading.serves("PASCAL VOC", task, *SETS)
        root, own = Path(root), Path(root) / "classes.txt"
        given = reading.class_names(own) if own.exists() else []
        found = reading.pictures_in(root / "JPEGImages")
        lists = {
            one: listed(root / "ImageSets" / SETS[task] / f"{one}.txt", found) for one in SPLITS
        }
        files = [found[name] for name in lists[split]]
        if task == "segmentation":
            masks = [root / "SegmentationClass" / f"{name}.png" for name in lists[split]]
            missing = [str(mask) for mask in masks if not mask.exists()]
            if missing:
                raise UserError(f"{len(missing)} masks are missing: {listing(missing, most=3)}")
            names, self.meaning = meaning_of(root, given, say=split == "train")
            super().__init__(root, files, masks, names or CLASSES)
            return
        folder, given = root / "Annotations", [name for name in given if name != "background"]
        labelled = {
            one: [read(folder / f"{name}.xml") for name in lists[one]]
            for one in ([split] if given else SPLITS)
        }
        every = (name for some in labelled.values() for one in some for name, _, _ in one.objects)
        classes = given or sorted(set(every))
        objects = [
            [Object(box, reading.class_index(name, classes, at), at) for name, box, at in some]
            for _, some in labelled[split]
        ]
        sizes = dict(zip(files, (one.size for one in labelled[split]), strict=True))
        reading.compare_sizes(folder, {file: size for file, size in sizes.items() if all(size)})
        super().__init__(root, files, reading.boxes_of(folder, objects), classes)


def listed(source: Path, found: dict[str, Path]) -> list[str]:
    """The pictures of a list, one a line; lists of a class have a column of -1, 0 and 1 behind."""
    names = [
        line if line in found else re.sub(r"\s+(-1|0|1)$", "", line)
        for line in reading.lines(source)
    ]
    return reading.chosen(source, names, found)


class Labelled(NamedTuple):
    """What an XML file says: width and height or zeros, and each object's name, box and place."""

    size: tuple[float, float]
    objects: list[tuple[str, tuple[float, float, float, float], str]]


def read(file: Path) -> Labelled:
    """The objects of an XML file that are not difficult; boxes in pixels from 0."""
    try:
        tree = ElementTree.parse(file).getroot()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter: its encoding
        raise UserError(f"{file}: not XML: {error}") from error
    objects = []
    for number, one in enumerate(tree.iter("object"), start=1):
        where = f"{file}: object {number}"
        name = one.findtext("name", "").strip()
        if not name:
            raise UserError(f"{where}: has no <name>")
        if one.findtext("difficult", "0").strip() == "1":
            continue
        given = [one.findtext(f"bndbox/{corner}", "nothing") for corner in CORNERS]
        left, top, right, bottom = reading.numbers(given, f"{where} ({name}), {listing(CORNERS)}")
        objects.append((name, (left - 1, top - 1, right, bottom), where))
    size = [tree.findtext(f"size/{side}") or "0" for side in ("width", "height")]
    width, height = reading.numbers(size, f"{file}: size")
    return Labelled((width, height), objects)
