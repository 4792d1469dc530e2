"""Pictures and masks in two folders: `images/a.jpg` and `masks/a.png`.

A mask has a class index at each pixel, 255 where none is known, at the size of its picture.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nano_cv.data import images, reading
from nano_cv.data.pictures import SPLITS, Pictures
from nano_cv.data.splitting import called, complete
from nano_cv.errors import UserError, listing


class FolderMasks(Pictures):
    """One split of a set for segmentation.

    `train.txt`, `val.txt` and `test.txt` name the pictures, one a line, with or without the ending;
    without lists the folders `images/train/` and so on do, if all pictures lie in such. A split
    that is missing is taken out of `train`, or out of all pictures, by the hash of the file names.
    The classes are those of `classes.txt`, one a line; without it every mask is read, and they are
    `class 0` to the highest index.

    Args:
        root: folder with `images/` and `masks/`.
        split: `train`, `val` or `test`.
        task: `segmentation`.

    Raises:
        UserError: pictures without masks or the reverse, lists of what is not there, masks drawn
            in 0 and 255.
    """

    def __init__(self, root: str | Path, split: str, task: str = "segmentation") -> None:
        reading.serves("A folder of masks", task, "segmentation")
        root, own = Path(root), Path(root) / "classes.txt"
        pictures = reading.pictures_in(root / "images")
        masks = reading.pictures_in(root / "masks")
        masks = {name: file for name, file in masks.items() if file.suffix.lower() == ".png"}
        lists = {
            one: reading.chosen(source, reading.lines(source), pictures)
            for one in SPLITS
            if (source := root / f"{one}.txt").exists()
        }
        folders: dict[str, list[str]] = {}
        for name in pictures:
            folders.setdefault(called(name.split("/")[0]) or "", []).append(name)
        names = complete(
            lists or ({"train": list(pictures)} if "" in folders else folders),
            root,
            lambda name: reading.below(root / "images", pictures[name]),
            notice=split == "train",
        )[split]
        lonely = [name for name in names if name not in masks]
        if not lists:
            lonely = sorted(set(pictures) ^ set(masks))
        if lonely:
            sides = [
                f"{pictures[name]} has no mask"
                if name in pictures
                else f"{masks[name]} has no picture"
                for name in lonely
            ]
            raise UserError(f"{listing(sides, most=3)}; a mask is masks/NAME.png")
        check_not_black_and_white(masks.values())
        classes = reading.class_names(own) if own.exists() else numbered(masks.values())
        files = [pictures[name] for name in names]
        super().__init__(root, files, [masks[name] for name in names], classes)


def check_not_black_and_white(masks: Iterable[Path]) -> None:
    """Refuse masks of 0 and 255 alone: 255 is the object there, and here it is not known.

    One mask with another value shows that this is not so; most often that is the first.
    """
    white = None
    for file in masks:
        values = set(np.unique(images.load_mask(file)))
        if values - {0, images.IGNORE}:
            return
        white = white or (file if images.IGNORE in values else None)
    if white:
        raise UserError(
            f"{white}: the masks are drawn in 0 and 255; a mask has class indices, so 1 for the "
            "object, and 255 where it is not known. To write them anew like that, type: python -c "
            "'import pathlib, PIL.Image; [PIL.Image.open(f).point(lambda p: p // 255).save(f) "
            f'for f in pathlib.Path("{white.parent}").glob("*.png")]\''
        )


def numbered(masks: Iterable[Path]) -> list[str]:
    """`class 0` to the highest index that occurs."""
    known = (values[values != images.IGNORE] for values in map(images.load_mask, masks))
    highest = max((int(values.max()) for values in known if values.size), default=0)
    return [f"class {index}" for index in range(highest + 1)]
