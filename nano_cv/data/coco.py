"""COCO JSON: `annotations/<split>.json`, and pictures in `images/`.

Or the layouts of the programs that write it: see `SOURCES` and `FOLDERS`.

Boxes are x, y, width and height in pixels, from 0 at the upper left corner of the picture.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from nano_cv.data import reading
from nano_cv.data.pictures import COUNTED, CROWD, Pictures
from nano_cv.data.reading import Object
from nano_cv.data.splitting import place_of
from nano_cv.errors import UserError, listing

FIELDS: dict[str, dict[str, Any]] = {  # what is read, and its type
    "categories": {"id": int, "name": str},
    "images": {"id": int | str, "file_name": str},
    "annotations": {"image_id": int | str, "category_id": int, "bbox": list},
}
SOURCES = (
    "annotations/{split}.json",
    "annotations/instances_{split}.json",
    "{split}/_annotations.coco.json",
)
FOLDERS = ("images", "images/{split}", "{split}", "")  # that `file_name` may be relative to


class Coco(Pictures):
    """One split of a set for detection.

    The classes are the categories of `train.json` in the order of their ids, which may have gaps.
    Groups of objects (`iscrowd`) are not learnt, and what is predicted there is neither right nor
    false. Boxes of no size are left out with a warning.

    Args:
        root: folder with `annotations/train.json`, `val.json`, `test.json`, and `images/`.
        split: `train`, `val` or `test`.
        task: `detection`.

    Raises:
        UserError: files missing or not as they should be; names the file and the entry.
    """

    def __init__(self, root: str | Path, split: str, task: str = "detection") -> None:
        reading.serves("COCO JSON", task, "detection")
        root = Path(root)
        source, called = place_of(root, split, SOURCES)
        train, _ = place_of(root, "train", SOURCES)
        content = load(source)
        known = content if split == "train" else load(train)
        ordered = sorted(known["categories"], key=lambda one: one["id"])
        classes = reading.different([one["name"] for one in ordered], train)
        labels = {
            one["id"]: reading.class_index(one["name"], classes, f"{source}: category {one['id']}")
            for one in content["categories"]
        }
        files = find(root, called, source, [one["file_name"] for one in content["images"]])
        twice = [file.name for file, count in Counter(files).items() if count > 1]
        if twice:
            raise UserError(f"{source}: several images of one file_name: {listing(twice)}")
        stated = {
            file: (one["width"], one["height"])
            for file, one in zip(files, content["images"], strict=True)
            if all(
                isinstance(one.get(key), int | float) and one[key] for key in ("width", "height")
            )
        }
        reading.compare_sizes(source, stated)
        targets = reading.boxes_of(source, objects_of(content, labels, source))
        super().__init__(root, files, targets, classes)


def load(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists of a COCO file, after a look that every entry has the fields that are read."""
    try:
        content = json.loads(reading.text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not JSON: {error}") from error
    for key, fields in FIELDS.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"{file}: no list '{key}'; a COCO file has {listing(FIELDS)}")
        for number, one in enumerate(entries):
            given = one if isinstance(one, dict) else {}
            wrong = [name for name, kind in fields.items() if not isinstance(given.get(name), kind)]
            if wrong:
                entry = given.get("id", f"number {number}")
                raise UserError(
                    f"{file}: {key} {entry}: '{wrong[0]}' is missing or of a wrong type"
                )
    return content


def objects_of(
    content: dict[str, list[dict[str, Any]]], labels: dict[int, int], source: Path
) -> list[list[Object]]:
    """The objects of each image, in the order of the images; `labels` by category id."""
    objects: dict[int | str, list[Object]] = {one["id"]: [] for one in content["images"]}
    if len(objects) < len(content["images"]):
        raise UserError(f"{source}: two images of one id")
    for number, one in enumerate(content["annotations"]):
        image, category = one["image_id"], one["category_id"]
        where = f"{source}: annotation {one.get('id', f'number {number}')}"
        if image not in objects or category not in labels:
            lacking = f"category {category}" if image in objects else f"image {image!r}"
            raise UserError(f"{where}: there is no {lacking} in this file")
        box = reading.numbers(one["bbox"], where)
        if len(box) != 4:
            raise UserError(f"{where}: a bbox is [x, y, width, height], and not {one['bbox']}")
        x, y, width, height = box
        corners, ignored = (x, y, x + width, y + height), CROWD if one.get("iscrowd") else COUNTED
        objects[image].append(Object(corners, labels[category], where, ignored))
    return list(objects.values())


def find(root: Path, split: str, source: Path, names: list[str]) -> list[Path]:
    """Where the pictures are, in the order of their names; they are looked for in `FOLDERS`."""
    folders = [root / folder.format(split=split) for folder in FOLDERS]
    inside = [[] if Path(name).is_absolute() else [one / name for one in folders] for name in names]
    files = [next((file for file in some if file.is_file()), None) for some in inside]
    missing = [name for name, file in zip(names, files, strict=True) if file is None]
    if missing:
        searched = listing(f"{folder}/" for folder in folders)
        raise UserError(
            f"{source}: {len(missing)} pictures are missing: {listing(missing, most=3)}; "
            f"looked for in {searched}"
        )
    return [file for file in files if file]
