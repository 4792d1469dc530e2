"""YOLO text files: `images/<split>/a.jpg`, and `labels/<split>/a.txt` with an object a line.

Or `<split>/images/a.jpg` and `<split>/labels/a.txt`, as Roboflow writes them.

A line is `class cx cy width height`, or a class and the corners of a polygon, in shares of the
width and height of the upright picture.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import yaml

from nano_cv.data import images, reading
from nano_cv.data.pictures import Pictures
from nano_cv.data.reading import Object
from nano_cv.data.splitting import place_of
from nano_cv.errors import UserError, listing

log = logging.getLogger(__name__)
SLACK = 0.1  # shares beyond 0 and 1 by this much come of rounding or a hasty hand, not of pixels
NO_LABELS = {"classes", "notes"}  # text files that labelling programs put beside the labels


class Yolo(Pictures):
    """One split of a set for detection.

    The classes are `names` of `data.yaml`, a list or a mapping from numbers, or else the lines of
    `classes.txt`. A picture without a text file has no objects. A polygon counts as the box around
    it.

    Args:
        root: folder with `images/<split>/`, `labels/<split>/`, and the class names; or with
            `<split>/images/` and `<split>/labels/`.
        split: `train`, `val` or `test`.
        task: `detection`.

    Raises:
        UserError: files missing or not as they should be; names the file and the line.
    """

    def __init__(self, root: str | Path, split: str, task: str = "detection") -> None:
        reading.serves("YOLO text", task, "detection")
        root = Path(root)
        pictures, _ = place_of(root, split, ("images/{split}", "{split}/images"))
        labels = root / pictures.relative_to(root).as_posix().replace("images", "labels")
        found, classes = reading.pictures_in(pictures), names(root)
        texts = {
            file.relative_to(labels).with_suffix("").as_posix(): file
            for file in images.find(labels, (".txt",))
        }
        if not texts.keys() & found.keys():
            raise UserError(f"{labels}: no text file for any of the {len(found)} pictures")
        alone = sorted(texts.keys() - found.keys() - NO_LABELS)
        if alone:
            log.warning("%s: %d files without a picture: %s", labels, len(alone), listing(alone))
        objects = [
            list(read(texts[name], file, len(classes))) if name in texts else []
            for name, file in found.items()
        ]
        files = list(found.values())
        super().__init__(root, files, reading.boxes_of(labels, objects), classes)


def names(root: Path) -> list[str]:
    """The class names, from `data.yaml` or else `classes.txt`."""
    file = root / "data.yaml"
    if (root / "classes.txt").exists() and not file.exists():
        return reading.class_names(root / "classes.txt")
    try:
        content = yaml.safe_load(reading.text(file))
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML: {error}") from error
    given = content.get("names") if isinstance(content, dict) else None
    if isinstance(given, dict) and sorted(given, key=str) == sorted(range(len(given)), key=str):
        given = [given[number] for number in range(len(given))]
    if not isinstance(given, list):
        raise UserError(f"{file}: 'names' is a list of classes, or a mapping from 0, 1, 2, ...")
    # yes, no, on and off are not text in YAML
    wrong = [name for name in given if isinstance(name, bool) or not isinstance(name, str | int)]
    if wrong:
        raise UserError(f"{file}: names: {wrong[0]!r} is not text; put the name in quotes")
    return reading.different([str(name) for name in given], file)


def read(file: Path, picture: Path, classes: int) -> Iterator[Object]:
    """The objects of a text file, in pixels of its picture."""
    size = images.dimensions(picture)
    for number, line in enumerate(reading.text(file).splitlines(), start=1):
        columns, where = line.split(), f"{file}, line {number}"
        if not columns:
            continue
        if len(columns) != 5 and (len(columns) < 7 or len(columns) % 2 == 0):
            raise UserError(
                f"{where}: {len(columns)} columns; 'class cx cy width height' are 5, and a polygon "
                "has a class and pairs of x y"
            )
        label, *shares = reading.numbers(columns, where)
        if label not in range(classes):
            raise UserError(f"{where}: class {columns[0]}; the classes are 0 to {classes - 1}")
        if not all(-SLACK <= share <= 1 + SLACK for share in shares):
            raise UserError(f"{where}: {' '.join(columns[1:])}: shares of the picture are 0 to 1")
        if len(shares) == 4:
            cx, cy, width, height = shares
            xs, ys = [cx - width / 2, cx + width / 2], [cy - height / 2, cy + height / 2]
        else:
            xs, ys = shares[::2], shares[1::2]
            xs, ys = [min(xs), max(xs)], [min(ys), max(ys)]
        (left, right), (top, bottom) = ([x * size[0] for x in xs], [y * size[1] for y in ys])
        yield Object((left, top, right, bottom), int(label), where)
