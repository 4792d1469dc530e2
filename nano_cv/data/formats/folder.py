"""A folder a class: `daisy/*.jpg`, `tulips/*.jpg`; `train/`, `val/` and `test/` above, or not."""

import logging
from pathlib import Path

from nano_cv.data import images
from nano_cv.data.formats import reading
from nano_cv.data.formats.splitting import called, complete
from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError, listing, nearest

log = logging.getLogger(__name__)


class Folder(Pictures):
    """One split of a set for classification or generation.

    Three layouts: `train/`, `val/` and `test/` (or as in `CALLED`) with a folder a class in each;
    some of them, and what is missing is taken out of `train/` by the hash of class and file name,
    some of each class; or one folder a class and nothing above, split by that hash. Classes are
    sorted by name, as numbers where all of them are numbers; those without pictures are kept.

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
        training = given.setdefault("train", root)
        names = class_folders(training, least=2)
        classes = reading.in_order(names, training, notice=split == "train")
        if split == "train" and training != root:
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
        pictures = {
            one: pictures_in(folder, classes, training, root) for one, folder in given.items()
        }
        found = complete(
            pictures,
            training,
            lambda item: reading.below(training, item[0]),
            lambda item: item[1],
            notice=split == "train",
        )[split]
        found.sort(key=lambda item: classes.index(item[1]))
        labels = [classes.index(name) for _, name in found]
        super().__init__(root, [file for file, _ in found], labels, classes)


def pictures_in(
    folder: Path, classes: list[str], training: Path, root: Path
) -> list[tuple[Path, str]]:
    """The pictures of a split, each with its class, which must be one of `classes`."""
    found = [
        (file, name)
        for name in sorted(class_folders(folder))
        for file in images.find(folder / name, root=root)
    ]
    for name in dict.fromkeys(name for _, name in found):
        if name not in classes:
            known = f"not one of the classes in {training}{nearest(name, classes)}"
            raise UserError(f"{folder / name}: {known} It has: {listing(classes)}")
    return found


def split_folders(root: Path) -> dict[str, Path]:
    """The folders in `root` that are splits: `train`, `Val`, `validation` and the like."""
    found: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        split = called(path.name)
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
