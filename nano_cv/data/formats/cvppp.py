"""Reader of the CVPPP leaf segmentation challenge (Minervini et al. 2016): plants from above.

Beside each `A1/plant001_rgb.png` (up to `A4/`) lies `plant001_label.png` with a number per leaf.
"""

from pathlib import Path

from nano_cv.data.formats import splitting
from nano_cv.data.formats.flowers import choose_targets
from nano_cv.data.formats.splitting import Sample
from nano_cv.data.pictures import Pictures
from nano_cv.data.targets import Meaning
from nano_cv.errors import UserError, listing

CLASSES = {"detection": ["leaf"], "segmentation": ["background", "plant"]}


def read_cvppp(root: Path, task: str) -> dict[str, Pictures]:
    """Read the set; the targets are the folders as classes, boxes of leaves, or masks of plants.

    There is no official split with labels, so the hash of folder and name decides. Many images show
    the same plant on different days and may fall into different splits: test metrics flatter.
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
    labels = [file.with_name(file.name.replace("_rgb.png", "_label.png")) for file in files]
    missing = [str(label) for label in labels if not label.exists()]
    if missing and task in CLASSES:
        raise UserError(f"{len(missing)} labels are missing: {listing(missing, most=3)}")
    kinds = [folders.index(file.parent.name) for file in files]
    targets = choose_targets(task, kinds, labels, smallest=1)
    # `A1/plant001`, since every folder has a plant001.
    names = [f"{file.parent.name}/{file.name.removesuffix('_rgb.png')}" for file in files]
    samples = [Sample(*row) for row in zip(files, targets, names, strict=True)]
    return splitting.as_splits(root, {"train": samples}, classes, Meaning(nonzero=True))
