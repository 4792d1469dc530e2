"""Reader of a folder per class, as `daisy/*.jpg`, also inside `train/`, `val/` and `test/`."""

import logging
from collections.abc import Sequence
from pathlib import Path

from nano_cv.data import images
from nano_cv.data.formats import reading, splitting
from nano_cv.data.formats.splitting import Sample
from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError, listing, nearest

log = logging.getLogger(__name__)


def read_folder(root: Path, task: str) -> dict[str, Pictures]:
    """Read a set for classification or generation.

    The root has folders `train/`, `val/` and `test/` (or names as in `CALLED`, or with one of these
    words, as `seg_train/`) with a folder per class in each, or it has the folders of the classes
    itself. Images of a missing split are taken out of `train/`, or out of all images, class by
    class, by the hash of class and file name. Classes are sorted by name, or as numbers if all are
    numbers; classes without images are kept.

    Raises:
        UserError: no folders, images that lie beside them, splits inside of the folders of classes,
            or a class that `train/` lacks.
    """
    reading.check_task("A folder per class", task, "classification", "generation")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; it should hold a folder per class")
    folders, loose = look_into(root)
    given = splitting.one_for_each(splitting.group_by_split(folders))
    words = {} if given else splitting.by_words(folders)
    # Splits hold the folders of classes; a class such as `toy train` holds pictures.
    if words and {one for one in folders if any(one.glob("[!.]*/"))} == {*words.values()}:
        given = words
        for split, one in given.items():  # some sets have seg_train/seg_train/
            given[split] = one / one.name if (one / one.name).is_dir() else one
        log.info("%s: taken as splits: %s", root, listing(given.values()))
    elif not given and folders and all(map(_holds_splits, folders)):
        raise UserError(
            f"{root}: the folders of classes hold splits; put the splits first: "
            f"train/{folders[0].name}/"
        )
    beside = [one for one in folders if not {one, one / one.name} & {*given.values()}]
    flat = "train" in given and not any(look_into(one)[0] for one in given.values())
    if flat and look_into(given["train"])[1] and any(look_into(one)[1] for one in beside):
        log.info("%s: %s are classes, for they hold no folders", root, listing(given))
        given = {}
    elif list(given) == ["train"]:
        inner = {one.name for one in look_into(given["train"])[0]}
        alike = [one.name for one in beside if inner & {own.name for own in look_into(one)[0]}]
        if alike:
            raise UserError(
                f"{root}: is 'train' a split, or a class like {listing(alike)}? If it is a class, "
                "rename it; else call the others val and test, or move them away"
            )
    if given and "train" not in given:
        raise UserError(f"{root}: holds {listing(given)}, and no 'train' to learn from")
    training = given.setdefault("train", root)
    names = [*class_folders(training)]
    if len(names) < 2:
        there = f"only {names[0]}" if names else "none"
        raise UserError(
            f"{training}: at least two folders are needed, one per class; there is {there}"
        )
    classes = reading.sort_classes(names, training)
    if training != root:
        splitting.warn_of_others(root, [*beside, *loose])
    samples = {
        split: samples_in(folder, classes, training, root) for split, folder in given.items()
    }
    return splitting.as_splits(root, samples, classes, by_class=True)


def samples_in(folder: Path, classes: Sequence[str], training: Path, root: Path) -> list[Sample]:
    """Return the images of a split; refuses classes that the `training` folder does not have."""
    names = class_folders(folder)
    samples = [
        Sample(text, label, reading.below(folder, text))
        for label, name in enumerate(classes)
        if name in names
        for text in images.find(names[name], root=root).rows
    ]
    for name in sorted(set(names) - set(classes)):
        if images.find(names[name], root=root):
            known = f"not one of the classes in {training}{nearest(name, classes)}"
            raise UserError(f"{names[name]}: {known} It has: {listing(classes)}")
    return samples


def class_folders(folder: Path) -> dict[str, Path]:
    """Return the class folders in `folder` by the class; refuses images beside them."""
    folders, loose = look_into(folder)
    if loose:
        raise UserError(
            f"{folder}: {len(loose)} pictures lie beside the folders of the classes: "
            f"{listing((path.name for path in loose), most=3)}; each belongs into that of its class"
        )
    if any(path.is_symlink() for path in folders):
        loops = images.walk(folder).loops  # links to other classes, or to the folder itself
        folders = [path for path in folders if str(path) not in loops]
    names = [reading.normal(path.name) for path in folders]
    reading.refuse_repeated(names, f"{folder}: the same class twice")
    return dict(zip(names, folders, strict=True))


def _holds_splits(folder: Path) -> bool:
    """Return whether a folder holds folders, and all of them are named after splits."""
    inside = look_into(folder)[0]
    return bool(inside) and all(splitting.called(one.name) for one in inside)


def look_into(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the images that lie in a folder, sorted."""
    found = reading.list_folder(folder)
    pictures = [path for path in found if path.suffix.lower() in images.EXTENSIONS]
    return [path for path in found if path.is_dir()], pictures
