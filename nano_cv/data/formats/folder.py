"""Reader of a folder per class, as `daisy/*.jpg`, also inside `train/`, `val/` and `test/`."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nano_cv.data import images
from nano_cv.data.formats import reading, splitting
from nano_cv.data.formats.splitting import Sample
from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError, listing, nearest

log = logging.getLogger(__name__)
NO_CLASSES = {  # if there are no others
    *("images", "masks", "labels", "annotations", "jpegimages", "imagesets", "img", "ann"),
    *("segmentationclass", "segmentationobject"),
}
MASK_FOLDER, MASK_ENDING = re.compile(r"./masks?/[^/]+$"), re.compile(r"_mask(_\d+)?(?=\.\w+$)")
OF_SPLITS = {"", "images", "img", "imgs", "lab", "labels", "data", "tfrecords"}  # beside `train`


def read_folder(root: Path, task: str) -> dict[str, Pictures]:
    """Read a set for classification or generation.

    The root has folders `train/`, `val/` and `test/` (or names as in `SPLIT_NAMES`, or with one of
    these words, as `seg_train/`) with a folder per class in each, or it has the folders of the
    classes itself. Missing splits get some images of each class. Classes are sorted by name, or as
    numbers if all are numbers; classes without images are kept. A class that `train/` lacks is
    refused, and so are images beside the folders of classes, splits inside of these, and folders
    that are no classes, see `check_class_folders`. A `test/` of images without folders is passed
    over with a warning.
    """
    reading.check_task("A folder per class", task, "classification", "generation")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; it should hold a folder per class")
    folders, loose = look_into(root)
    if len(folders) == 1 and not loose and not splitting.split_in(folders[0].name):
        further, pictures = look_into(folders[0])
        if further and not pictures:  # so it is no class; a set of one would be refused
            log.info("%s: the set lies in %s", root, folders[0].name)
            return read_folder(folders[0], task)
    splits = splitting.one_by_split(folders)
    words = {} if "train" in splits else splitting.by_words(folders)
    # All splits hold folders of the same names; a class such as `toy train` holds none.
    inside = {path: {own.name for own in look_into(unwrap(path))[0]} for path in folders if words}
    same = len(words) > 1 and set.intersection(*(inside[path] for path in words.values()))
    holding = {path for path in folders if inside.get(path)}
    by_words = words and (same or words["train"] in holding <= {*words.values()})
    splits = {split: unwrap(path) for split, path in (words if by_words else splits).items()}
    contents = {split: look_into(folder) for split, folder in splits.items()}
    classed = [split for split, (folders_inside, _) in contents.items() if folders_inside]
    passed = []
    # As Kaggle's `train/` with a folder per class and `test/`, or `test/images/`, without labels.
    in_test, loose_test = contents.get("test", ([], []))
    unlabelled = [path.name for path in in_test] == ["images"] or (loose_test and not in_test)
    if "train" in classed and unlabelled:
        passed = [splits.pop("test")]
        log.warning("%s: passed over, for it holds no folders of classes", passed[0])
    if by_words:
        log.info("%s: taken as splits: %s", root, listing(splits.values()))
    elif not splits and (wrong := [path for path in folders if _holds_splits(path)]):
        name = wrong[0].name
        raise UserError(
            f"{root}: {name}/ holds splits; if it is the set, type data.root={wrong[0]}; if it is "
            f"a class, put the splits first: train/{name}/"
        )
    used = {*passed, *splits.values()}
    beside = [path for path in folders if not {path, path / path.name} & used]
    is_class = "train" in contents and contents["train"][1] and not classed
    if is_class and any(look_into(folder)[1] for folder in beside):
        log.info("%s: %s are classes, for they hold no folders", root, listing(splits))
        splits = {}
    elif list(splits) == ["train"]:
        inner = {folder.name for folder in look_into(splits["train"])[0]}
        alike = [path.name for path in beside if inner & {sub.name for sub in look_into(path)[0]}]
        if alike:
            raise UserError(
                f"{root}: is 'train' a split, or a class like {listing(alike)}? If it is a class, "
                "rename it; else call the others val and test, or move them away"
            )
    if splits and "train" not in splits:
        raise UserError(f"{root}: holds {listing(splits)}, and no 'train' to learn from")
    training = splits.setdefault("train", root)
    every_class = class_folders(training)
    check_class_folders(training, every_class)
    classes = reading.sort_classes(every_class, training)
    if training != root:
        splitting.warn_of_others(root, [*beside, *loose])
    samples = {
        split: samples_in(folder, classes, training, root) for split, folder in splits.items()
    }
    targets = {sample.target for sample in samples["train"]}
    only = every_class[classes[targets.pop()]] if len(targets) == 1 else None
    if only and training == root and len(look_into(only)[0]) > 1:
        raise UserError(
            f"{root}: only {only.name}/ holds pictures; if the folders in it are the classes, "
            f"type data.root={only}"
        )
    masks = [name for part in samples.values() for name in names_of_masks(part)]
    reading.warn_of(root, "pictures have names of masks, and are learnt like the others", masks)
    return splitting.as_splits(root, samples, classes, by_class=True)


def check_class_folders(training: Path, every_class: Mapping[str, Path]) -> None:
    """Refuse folders that are hardly the classes of a set, and warn of those that may not be."""
    names = [*every_class]
    if len(names) < 2:
        present = f"only {names[0]}" if names else "none"
        raise UserError(
            f"{training}: at least two folders are needed, one per class; there is {present}"
        )
    if {name.lower() for name in names} <= NO_CLASSES:
        raise UserError(
            f"{training}: {listing(names)} are hardly classes; if they are, rename them"
        )
    words = [re.split(r"[\W\d_]+", name.lower()) for name in names]
    splits_meant = {splitting.split_in(" ".join(own)) for own in words}
    rests = {" ".join(word for word in own if word and not splitting.called(word)) for own in words}
    if (
        len(splits_meant) > 1
        and None not in splits_meant
        and (len(rests) == 1 or rests <= OF_SPLITS)
    ):
        raise UserError(  # as of Kaggle's `train/` and `test1/`
            f"{training}: {listing(names)} are named after splits, and hold no folders of classes; "
            "labels in a table are read by data=csv; if they are classes, rename them"
        )
    if len(rests) == 1 and re.search(r"\b(part|images?|batch)$", rests.pop()):
        text = "%s: taken as classes: %s; if they are parts of one set, read its table by data=csv"
        log.warning(text, training, listing(names))
    parts = [_folders_in(path) for path in every_class.values()]
    copies = [name for name, part in zip(names, parts, strict=True) if part >= {*names} - {name}]
    if len(copies) == 1 and len(names) > 2:
        raise UserError(
            f"{training}: {copies[0]}/ holds folders of all other classes; if it is a copy of the "
            "set, move it away"
        )
    only_folders = all(parts) and not any(look_into(path)[1] for path in every_class.values())
    if only_folders or any(part & {*names} for part in parts):
        text = "%s: taken as classes: %s; if the folders inside of them are, move these into it: %s"
        log.warning(text, training, listing(names), listing(sorted(set[str]().union(*parts))))


def names_of_masks(samples: Sequence[Sample]) -> list[str]:
    """Return names such as `COVID/masks/1.png`, and `a/1_mask.png` beside `a/1.png`."""
    named = [sample.name for sample in samples if "mask" in sample.name]
    known = {sample.name for sample in samples} if named else set[str]()
    return [
        name
        for name in named
        if MASK_FOLDER.search(name)
        or (MASK_ENDING.search(name) and MASK_ENDING.sub("", name) in known)
    ]


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
            if not {*names} & {*classes}:
                none = f"none of its folders is a class of {training}: {listing(names)}"
                raise UserError(f"{folder}: {none}; sort its pictures into those, or move it away")
            known = f"not one of the classes in {training}{nearest(name, classes)}"
            raise UserError(f"{names[name]}: {known} It has: {listing(classes)}")
    return samples


def class_folders(folder: Path) -> dict[str, Path]:
    """Return the class folders in `folder` by the class; refuses images beside them."""
    folders, loose = look_into(folder)
    if loose and not folders:
        raise UserError(f"{folder}: holds pictures and no folders of classes; is the set above it?")
    if loose:
        raise UserError(
            f"{folder}: {len(loose)} pictures lie beside the folders of the classes: "
            f"{listing((path.name for path in loose), most=3)}; each belongs into that of its class"
        )
    folders = [path for path in folders if not images.leads_back(path, folder)]
    names = [reading.normal(path.name) for path in folders]
    reading.refuse_repeated(names, f"{folder}: the same class twice")
    return dict(zip(names, folders, strict=True))


def unwrap(folder: Path) -> Path:
    """Return the only folder inside if it has the same name, as in `seg_train/seg_train/`."""
    inner = folder / folder.name
    return inner if look_into(folder) == ([inner], []) else folder


def _holds_splits(folder: Path) -> bool:
    """Return whether a folder holds `train/`, another split, and no other folders."""
    own = {splitting.called(name) for name in _folders_in(folder)}
    return len(own) > 1 and "train" in own and None not in own


def _folders_in(folder: Path) -> set[str]:
    """Return the names of the folders in a folder, which may have a million pictures."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_dir() and entry.name[:1] != "."}


def look_into(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the images that lie in a folder, sorted."""
    paths = reading.list_folder(folder)
    pictures = [path for path in paths if path.suffix.lower() in images.EXTENSIONS]
    return [path for path in paths if path.is_dir()], pictures
