"""Reader of the CVPPP leaf segmentation challenge (Minervini et al. 2016): plants from above.

Beside each `A1/plant001_rgb.png` (up to `A4/`) lies `plant001_label.png` with a number per leaf.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nano_cv.data.formats import splitting
from nano_cv.data.formats.flowers import boxes_of_instances
from nano_cv.data.formats.splitting import Sample
from nano_cv.data.images import Meaning
from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError, listing

CLASSES = {"detection": ["leaf"], "segmentation": ["background", "plant"]}


def read_cvppp(root: Path, task: str) -> dict[str, Pictures]:
    """Read the set; the targets are the folders as classes, boxes of leaves, or masks of plants.

    There is no official split with labels, so the hash of folder and name decides. Many images show
    the same plant on different days and may fall into different splits: test metrics flatter.

    Args:
        root: folder with `A1/` to `A4/`, or some of them. A pixel of any leaf is `plant`.
        task: the task, which decides the targets.

    Raises:
        UserError: missing images or labels; the message says where to get the set.
    """
    files = sorted(root.glob("A[0-9]*/*_rgb.png"))
    if not files:
        raise UserError(
            f"{root}: no A1/plant001_rgb.png and so on there. The set may not be passed on: "
            "register at https://www.plant-phenotyping.org/CVPPP2017-challenge, unpack it to "
            f"{root}, or name the folder that holds A1 to A4: data.root=FOLDER"
        )
    folders = sorted({file.parent.name for file in files})
    classes = CLASSES.get(task, folders)
    missing = [str(label_of(file)) for file in files if not label_of(file).exists()]
    if missing and task in CLASSES:
        raise UserError(f"{len(missing)} labels are missing: {listing(missing, most=3)}")
    targets: Sequence[Any] = [folders.index(file.parent.name) for file in files]
    if task == "detection":
        targets = [boxes_of_instances(label_of(file), smallest=1) for file in files]
    elif task == "segmentation":
        targets = [label_of(file) for file in files]
    samples = [Sample(file, one, name_of(file)) for file, one in zip(files, targets, strict=True)]
    return splitting.as_splits(root, {"train": samples}, classes, Meaning(nonzero=True))


def name_of(file: Path) -> str:
    """Return `A1/plant001` for `A1/plant001_rgb.png`, since every folder has a plant001."""
    return f"{file.parent.name}/{file.name.removesuffix('_rgb.png')}"


def label_of(file: Path) -> Path:
    """Return the label image of an image, which has a number per leaf."""
    return file.with_name(file.name.replace("_rgb.png", "_label.png"))
