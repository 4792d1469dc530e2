"""Reader of the `flowers` set: rendered plants of 4 species, seen from above, for every task.

The layout is that of the CVPPP leaf-segmentation challenge (Minervini et al. 2016): a folder per
species, with images `plant001_rgb.jpg`, and beside each `plant001_label.png` with a number per
leaf, `plant001_centers.png`, and `plant001_mask.png` with background, leaf and blossom.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nano_cv.data.pictures import SPLITS, Pictures
from nano_cv.data.targets import COUNTED, Boxes
from nano_cv.errors import UserError, listing

SPECK = 64  # pixels; smaller regions are parts of leaves that other leaves hide
CLASSES = {"detection": ["leaf"], "segmentation": ["background", "leaf", "blossom"]}


def read_flowers(root: Path, task: str) -> dict[str, Pictures]:
    """Read the set; the targets are species, boxes of leaves, or masks."""
    species = sorted(folder.name for folder in root.glob("[!.]*") if folder.is_dir())
    return {split: read_split(root, split, task, species) for split in SPLITS}


def read_split(root: Path, split: str, task: str, species: list[str]) -> Pictures:
    """Read the images that `<split>.txt` lists, a line `<species>/plant001` per image."""
    try:
        names = (root / f"{split}.txt").read_text().split()
    except FileNotFoundError:
        raise UserError(
            f"{root / split}.txt: not found; to fetch the data, type: dvc pull; pictures of your "
            "own need the name of their layout, such as data=folder"
        ) from None
    unknown = {name.partition("/")[0] for name in names} - set(species)
    files = [root / f"{name}_rgb.jpg" for name in names]
    ending = {"detection": "label", "segmentation": "mask"}.get(task)
    beside = [root / f"{name}_{ending}.png" for name in names] if ending else []
    missing = [str(file) for file in [*files, *beside] if not file.exists()]
    if unknown or missing:
        raise UserError(
            f"{root}: {len(missing)} pictures are missing: {listing(missing, most=3)}; "
            "to fetch the data again, type: dvc pull --force"
        )
    labels = [species.index(name.partition("/")[0]) for name in names]
    targets = choose_targets(task, labels, beside, SPECK)
    return Pictures(root, files, targets, CLASSES.get(task, species))


def choose_targets(
    task: str, labels: Sequence[int], masks: Sequence[Path], smallest: int
) -> Sequence[Any]:
    """Return the targets: `labels`, `masks`, or boxes of the instances in these."""
    if task == "detection":
        return [boxes_of_instances(mask, smallest) for mask in masks]
    return masks if task == "segmentation" else labels


def boxes_of_instances(file: Path, smallest: int) -> Boxes:
    """Return boxes of class 0 around the instances of a mask, which has a number per instance.

    Instances of fewer than `smallest` pixels are left out.
    """
    from nano_cv.data.masks import load_mask

    instances = load_mask(file)
    boxes = []
    for number in 1 + np.flatnonzero(np.bincount(instances.ravel())[1:] >= smallest):
        rows, columns = np.nonzero(instances == number)
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    corners, count = np.array(boxes, np.float32).reshape(-1, 4), len(boxes)
    return Boxes(corners, np.zeros(count, np.int64), np.full(count, COUNTED, np.uint8))
