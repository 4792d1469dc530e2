"""The `flowers` set: rendered pictures of potted plants from above, 4 species.

The layout is that of the CVPPP leaf-segmentation challenge (Minervini et al. 2016): a folder a
kind of plant, `plant001_rgb.jpg` in it, and beside it `plant001_label.png` with a number a leaf,
`plant001_centers.png`, and `plant001_mask.png` with background, leaf and blossom.
"""

from pathlib import Path

from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError, listing


class Flowers(Pictures):
    """One split of the set; targets are species.

    Args:
        root: folder with `train.txt`, `val.txt`, `test.txt` and a folder a species.
        split: `train`, `val` or `test`.

    Raises:
        UserError: the data has not been pulled, or some files of it are missing.
    """

    def __init__(self, root: str | Path, split: str) -> None:
        root = Path(root)
        try:
            names = (root / f"{split}.txt").read_text().split()
        except FileNotFoundError:
            raise UserError(
                f"{root / split}.txt: not found; to fetch the data, type: dvc pull"
            ) from None
        classes = sorted(folder.name for folder in root.glob("[!.]*") if folder.is_dir())
        unknown = sorted({name.partition("/")[0] for name in names} - set(classes))
        files = [root / f"{name}_rgb.jpg" for name in names]
        missing = [str(file) for file in files if not file.exists()]
        if unknown or missing:
            raise UserError(
                f"{root}: {len(missing)} pictures are missing: {listing(missing, most=3)}; "
                "to fetch the data again, type: dvc pull --force"
            )
        targets = [classes.index(name.partition("/")[0]) for name in names]
        super().__init__(root, files, targets, classes)
