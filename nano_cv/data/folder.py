"""A folder a class: `daisy/*.jpg`, `tulips/*.jpg`; `train/`, `val/` and `test/` above, or not."""

import logging
from collections.abc import Collection
from pathlib import Path

from nano_cv.data import images, reading
from nano_cv.data.pictures import SPLITS, Pictures
from nano_cv.data.splitting import CALLED, say_shares, stable_split
from nano_cv.errors import UserError, listing, nearest

log = logging.getLogger(__name__)


class Folder(Pictures):
    """One split of a set for classification or generation.

    Three layouts: `train/`, `val/` and `test/` (or as in `CALLED`) with a folder a class in each;
    some of them, and what is missing is taken out of `train/` by the hash of the file's name; or
    one folder a class and nothing above, split by that hash. Classes are sorted by name, as numbers
    where all of them are numbers.

    Args:
        root: that folder.
        split: `train`, `val` or `test`.
        task: `classification` or `generation`.

    Raises:
        UserError: no folders, pictures that lie beside them, a class that `train/` has not.
    """

    def __init__(self, root: str | Path, split: str, task: str = "classification") -> None:
        reading.serves("A folder a class", task, "classification", "generation")
        root = Path(root)
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; it should hold a folder a class")
        given = split_folders(root)
        if given and "train" not in given:
            raise UserError(f"{root}: holds {listing(given)}, and no 'train' to learn from")
        training = given.get("train", root)
        names = class_folders(training, least=2)
        classes = reading.in_order(names, training, notice=split == "train")
        missing = [one for one in SPLITS if one not in given]
        if split == "train" and given:
            read = {folder.name for folder in given.values()}
            others = [
                path.name
                for path in visible(root)
                if path.name not in read
                and (path.is_dir() or path.suffix.lower() in images.EXTENSIONS)
            ]
            if others:
                log.warning(
                    "%s: passed over, for it is no split: %s", root, listing(sorted(others))
                )
        if split == "train" and missing:
            say_shares(training, missing)
        source = given.get(split, training)
        for name in class_folders(source):
            if name not in classes:
                known = f"not one of the classes in {training}{nearest(name, classes)}"
                raise UserError(f"{source / name}: {known} It has: {listing(classes)}")
        files, labels = [], []
        for label, name in enumerate(classes):
            for file in images.find(source / name, root=root) if (source / name).is_dir() else []:
                if source != training or taken(file.name, given) == split:
                    files.append(file)
                    labels.append(label)
        super().__init__(root, files, labels, classes)


def split_folders(root: Path) -> dict[str, Path]:
    """The folders in `root` that are splits: `train`, `Val`, `validation` and the like."""
    found: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        split = next((one for one, names in CALLED.items() if path.name.lower() in names), None)
        if split and path.is_dir() and found.setdefault(split, path) != path:
            raise UserError(
                f"{root}: {found[split].name}/ and {path.name}/ would both be the split '{split}'; "
                "move the pictures of one into the other"
            )
    return found


def class_folders(folder: Path, least: int = 0) -> list[str]:
    """The names of the class folders in `folder`; no pictures may lie beside them."""
    found = visible(folder)
    loose = [path for path in found if path.suffix.lower() in images.EXTENSIONS]
    if loose:
        raise UserError(
            f"{folder}: {len(loose)} pictures lie beside the folders of the classes: "
            f"{listing((path.name for path in loose), most=3)}; each belongs into that of its class"
        )
    names = [path.name for path in found if path.is_dir()]
    if any(path.is_symlink() for path in found):
        loops = images.walk(folder).loops  # links to other classes, or to the folder itself
        names = [name for name in names if folder / name not in loops]
    if len(names) < least:
        there = f"only {names[0]}" if names else "none"
        raise UserError(f"{folder}: at least two folders are needed, one a class; there is {there}")
    return names


def visible(folder: Path) -> list[Path]:
    """What lies in `folder`, but for hidden things and what macOS adds to its archives."""
    return [path for path in folder.glob("[!.]*") if path.name != "__MACOSX"]


def taken(name: str, given: Collection[str]) -> str:
    """The split of a picture in `train/`, or in the pool: one that has a folder takes none."""
    split = stable_split(name)
    return "train" if split in given else split
