"""Recognises splits by their names, and takes missing ones out of `train`; see `as_splits`."""

import hashlib
import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from nano_cv.data.images import EXTENSIONS
from nano_cv.data.pictures import SPLITS, Pictures
from nano_cv.data.store import Lazy
from nano_cv.data.targets import INDICES, Boxes, Meaning, are_tags
from nano_cv.errors import UserError, listing

log = logging.getLogger(__name__)
Item = TypeVar("Item")
SPLIT_NAMES = {  # names of the splits that are common in data sets
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}
SEVERAL_LABELS = "several labels per picture; a generator learns from pictures with one label each"
FEW = 20  # images of a group, of which no split but `train` gets more than its share
# Each split gets the images whose hash, modulo 100, lies in this range (the end is excluded).
SHARES = {"train": (0, 70), "val": (70, 85), "test": (85, 100)}


class Sample(NamedTuple):
    """Image with its target, while a set is read."""

    file: Path | str  # in large sets a text, which is smaller and quicker than a `Path`
    target: Any  # see `Pictures.targets`
    name: str  # whose hash chooses the split; the same on every machine


def normal(text: str) -> str:
    """Return a text with each accented letter as one character; macOS writes file names as two."""
    return unicodedata.normalize("NFC", text)


def called(name: str) -> str | None:
    """Return the split meant by a name such as `Train`, `valid` or COCO's `val2017`, or None."""
    bare = re.sub(r"(19|20)\d\d$", "", name.lower())
    return next((split for split, names in SPLIT_NAMES.items() if bare in names), None)


def group_by_split(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Group the folders and files named after a split by split; drop all others."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(paths):
        if split := called(path.name if path.is_dir() else path.stem):
            groups.setdefault(split, []).append(path)
    return groups


def one_by_split(paths: Iterable[Path]) -> dict[str, Path]:
    """Return the folder or file named after each split; refuses several for the same split."""
    groups = group_by_split(paths)
    for split, named_so in groups.items():
        refuse_several(named_so, f"the split '{split}'")
    return {split: named_so[0] for split, named_so in groups.items()}


def refuse_several(paths: Sequence[Path], what: str) -> None:
    """Raise a `UserError` if there are several candidates for the path described by `what`."""
    if len(paths) > 1:
        raise UserError(f"{listing(paths)}: each could be {what}; leave one of them there")


def by_words(paths: Sequence[Path]) -> dict[str, Path]:
    """Find splits by a word in the names of folders or tables, as in `seg_train`.

    Empty unless there is `train`, and no two name the same split.
    """
    words = [split_words(path.name) for path in paths]
    pairs = list(zip(words, paths, strict=True))
    splits = {own[0]: path for own, path in pairs if len(own) == 1}
    return splits if "train" in splits and len(splits) == sum(map(bool, words)) else {}


def split_words(name: str) -> list[str]:
    """Return the splits meant by the words of a name, as `test` for `test_images`."""
    return [*filter(None, map(called, re.split(r"[\W_]+", name)))]


def split_in(name: str) -> str | None:
    """Return the split that the words of a name mean, or None if they mean none or several."""
    splits = {*split_words(name)}
    return splits.pop() if len(splits) == 1 else None


def by_folders(root: Path, files: Sequence[Path | str]) -> list[str]:
    """Return the split in the path of each file: `test` for `images/test/a.jpg`.

    This is for sets that say nothing else of splits. The outermost folder that is named after one
    counts, or else the outermost with such a word in its name. If the folders do not tell the split
    of every file, or there is only one split, or no `train`, an empty text is returned for each.
    """
    folders = [os.path.dirname(file) or "." for file in files]
    start = os.path.commonpath(list(map(os.path.abspath, {*folders}))) if files else ""
    split_of = dict.fromkeys(folders, "")
    for folder in split_of:
        names = os.path.relpath(folder, start).split(os.sep)  # without what all files share
        splits = [*filter(None, map(called, names)), *filter(None, map(split_in, names))]
        split_of[folder] = splits[0] if splits else ""
    named = [split_of[folder] for folder in folders]
    found = sorted({*named} - {""})
    if len(found) < 2 or "train" not in found:
        return [""] * len(files)
    if others := [str(file) for file, split in zip(files, named, strict=True) if not split]:
        log.warning(
            "%s: folders are named after %s, but are not taken as splits, because these pictures "
            "lie in none of them: %s",
            *(root, listing(found), listing(others, most=3)),
        )
        return [""] * len(files)
    log.info("%s: the folders of the pictures are taken as splits: %s", root, listing(found))
    return named


def by_split(items: Iterable[Item], splits: Iterable[str]) -> dict[str, list[Item]]:
    """Group items by their splits; those without a split are `train`."""
    groups: dict[str, list[Item]] = {}
    for item, split in zip(items, splits, strict=True):
        groups.setdefault(split or "train", []).append(item)
    return groups


def warn_of_others(
    folder: Path, inside: Iterable[Path], used: Collection[Path] = (), known: Collection[str] = ()
) -> None:
    """Warn of folders and images in `folder` that are not `used`, such as a misspelt split.

    `known` are names of folders, in lower case, that are expected there and not warned of.
    """
    others = [path for path in inside if path.is_dir() or path.suffix.lower() in EXTENSIONS]
    others = [path for path in others if path not in used and path.name.lower() not in known]
    if names := sorted(path.name for path in others):
        log.warning("%s: passed over, for it is no split: %s", folder, listing(names))


def stable_split(name: str, missing: Iterable[str] = ("val", "test")) -> str:
    """Choose `train` or one of the `missing` splits by the SHA-256 of a name.

    So an image stays in its split when other images come or go, and on every machine.
    """
    place = _hash(name) % 100
    for split in missing:
        start, end = SHARES[split]
        if start <= place < end:
            return split
    return "train"


def stable_splits(
    names: Sequence[str],
    groups: Sequence[Collection[Hashable]] | None = None,
    missing: Sequence[str] = ("val", "test"),
) -> list[str]:
    """Choose a split for each image by `stable_split`, but leave no split of a group nearly empty.

    A group of three images has one in each split, a group of two images has them in `train` and the
    first of `missing`. Of the first `FEW` images of a group, the splits of `missing` get at most
    their shares, rounded up. Each split gets at least half its share: images are moved there whose
    hash lies nearest to its range. Equal names stay together.

    `names` are relative to the set, with forward slashes; `groups` are those of each image, as its
    classes; without, all images are a group. The splits `missing` are taken out of these images,
    and the rest is `train`.
    """
    split_of = {name: stable_split(name, missing) for name in names}
    grouped: dict[Hashable, dict[str, None]] = defaultdict(dict)  # names in order, each once
    for name, own in zip(names, groups or [(None,)] * len(names), strict=True):
        for group in own:
            grouped[group][name] = None

    def distance(name: str, split: str) -> tuple[int, int]:
        (start, end), number = SHARES[split], _hash(name)
        return max(start - number % 100, number % 100 - end + 1, 0), number

    shares = {split: end - start for split, (start, end) in SHARES.items()}
    for members in grouped.values():
        few = min(len(members), FEW)
        for split in missing:  # by chance they may hold most of a small group
            most = -(-few * shares[split] // 100) + len(members) - few
            inside = sorted((name for name in members if split_of[name] == split), key=_hash)
            for name in inside[most:]:
                split_of[name] = "train"
    for members in sorted(grouped.values(), key=len, reverse=True):  # the rarest decides last
        needed = ["train", *missing][: len(members)]
        least = {split: max(1, len(members) * shares[split] // 200) for split in needed}
        for split in needed:
            held = Counter(map(split_of.get, members))
            while held[split] < least[split]:
                spare = [n for n in members if held[split_of[n]] > least.get(split_of[n], 0)]
                moved = min(spare, key=lambda name: distance(name, split))
                held.update({split: 1, split_of[moved]: -1})
                split_of[moved] = split
    for members in grouped.values():  # a picture in several groups may have been moved twice
        if "train" not in map(split_of.get, members):
            split_of[next(iter(members))] = "train"
    return [split_of[name] for name in names]


def as_splits(
    root: Path,
    given: Mapping[str, Sequence[Sample]],
    classes: list[str],
    meaning: Meaning = INDICES,
    by_class: bool = False,
) -> dict[str, Pictures]:
    """Return all three splits; takes missing splits out of `train` by `stable_splits`.

    `given` are the images of each existing split; for a set without splits, all images as `train`.
    With `by_class`, targets are class indices or tuples of class indices, and each split gets all
    classes, as far as a picture of several classes allows.

    Raises:
        UserError: there are no images to train with.
    """
    spellings = Counter(map(str.casefold, classes))
    if alike := [name for name in classes if spellings[name.casefold()] > 1]:
        log.warning("%s: classes that differ in capital letters only: %s", root, listing(alike))
    grouped = {split: list(given[split]) for split in SPLITS if given.get(split)}
    if "train" not in grouped:
        hint = f"has {listing(sorted(grouped))}, and no 'train' to learn from"
        raise UserError(f"{root}: {hint if grouped else 'no pictures'}")
    missing = [split for split in SPLITS if split not in grouped]
    if missing:
        samples = grouped["train"]
        targets = [sample.target for sample in samples]
        # Roboflow's varied copies of a picture, `a_jpg.rf.<hash>.jpg`, get the same name here.
        names = [re.sub(r"\.rf\.[0-9a-f]{32}\.", ".", sample.name) for sample in samples]
        labels = targets if are_tags(targets) else [(target,) for target in targets]
        labels = labels if by_class else []
        groups = [own or (None,) for own in labels]
        pairs = zip(names, targets, strict=True)
        shown = {name for name, own in pairs if isinstance(own, Boxes) and own.counted.size}
        if len(shown) > len(missing):  # without any object, a split could not be judged
            groups = [(None,) if name in shown else () for name in names]
        splits = stable_splits(names, groups, missing)
        grouped |= {split: [] for split in ("train", *missing)} | by_split(samples, splits)
        counts = ", ".join(f"{len(grouped[split])} {split}" for split in ("train", *missing))
        log.info("%s: split by the hash of the file names: %s", root, counts)
        held = Counter(chain.from_iterable(labels))
        if few := [classes[label] for label, count in held.items() if count <= len(missing)]:
            log.warning("%s: too few pictures to have some in every split: %s", root, listing(few))
    pictures = {}
    for split in SPLITS:
        files: Any = [sample.file for sample in grouped[split]]
        if files and isinstance(files[0], str):
            files = Lazy(files, Path)
        targets = [sample.target for sample in grouped[split]]
        pictures[split] = Pictures(root, files, targets, classes, meaning)
    return pictures


def _hash(name: str) -> int:
    text = normal(name).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest(), "big")
