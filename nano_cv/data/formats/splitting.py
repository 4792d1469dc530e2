"""What splits are called, and a split for pictures that come without one."""

import hashlib
import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from nano_cv.errors import UserError, listing

log = logging.getLogger(__name__)
CALLED = {  # what a split may be called by those who write sets
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# Of 100 values of the hash, each split has those from the first number to below the second.
SHARES = {"train": (0, 70), "val": (70, 85), "test": (85, 100)}
Item = TypeVar("Item")


def called(name: str) -> str | None:
    """The split that a name stands for, as `Train`, `valid` or COCO's `val2017`, or None."""
    bare = re.sub(r"(19|20)\d\d$", "", name.lower())
    return next((split for split, names in CALLED.items() if bare in names), None)


def stable_split(name: str, missing: Iterable[str] = ("val", "test")) -> str:
    """`train`, or one of the splits that are `missing`, from the SHA-256 of a name alone.

    So a picture stays where it is when others come or go, on every machine.
    """
    place = _hash(name) % 100
    split = next(split for split, (_, end) in SHARES.items() if place < end)
    return split if split in missing else "train"


def stable_splits(
    names: Sequence[str],
    labels: Sequence[Hashable] | None = None,
    missing: Sequence[str] = ("val", "test"),
) -> list[str]:
    """The split of each picture: `stable_split`, but every split gets at least one picture if
    there are enough.

    With labels that holds for each class: a class of three has a picture in each split, one of two
    has them in `train` and the first of `missing`. Where the hash leaves a split without pictures,
    those whose hash lies nearest to its share are moved there.

    Args:
        names: of the pictures, relative to the set, with forward slashes.
        labels: the class of each; None stratifies by nothing.
        missing: the splits that are taken out of these pictures; the rest is `train`.
    """
    splits = [stable_split(name, missing) for name in names]
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, label in enumerate(labels or [None] * len(names)):
        groups[label].append(index)

    def distance(index: int, split: str) -> tuple[int, int]:
        (start, end), number = SHARES[split], _hash(names[index])
        return max(start - number % 100, number % 100 - end + 1, 0), number

    for members in groups.values():
        needed = ["train", *missing][: len(members)]
        for split in needed:
            held = Counter(splits[index] for index in members)
            if not held[split]:
                spare = [i for i in members if splits[i] not in needed or held[splits[i]] > 1]
                splits[min(spare, key=lambda i: distance(i, split))] = split
    return splits


def complete(
    given: Mapping[str, Sequence[Item]],
    source: Path,
    name_of: Callable[[Item], str],
    label_of: Callable[[Item], str] | None = None,
    notice: bool = True,
) -> dict[str, list[Item]]:
    """All three splits: those that are missing or empty are taken out of `train`, see above.

    Pictures without any split are given as `train`.

    Args:
        given: the pictures of each split that there is.
        source: where they were found, for messages.
        name_of: the name of a picture that is hashed.
        label_of: its class, for sets where each picture has one.
        notice: whether to say what is taken; three splits are opened, and once is enough.

    Raises:
        UserError: there is nothing to train with.
    """
    found = {split: list(items) for split, items in given.items() if items}
    if "train" not in found:
        there = f"has {listing(found)}, and no 'train' to learn from" if found else "no pictures"
        raise UserError(f"{source}: {there}")
    missing = [split for split in SHARES if split not in found]
    if not missing:
        return found
    items = found["train"]
    labels = [label_of(item) for item in items] if label_of else None
    splits = stable_splits([name_of(item) for item in items], labels, missing)
    chosen = {
        split: [item for item, one in zip(items, splits, strict=True) if one == split]
        for split in ("train", *missing)
    }
    if notice:
        shares = {split: end - start for split, (start, end) in SHARES.items() if split in missing}
        shares = {"train": 100 - sum(shares.values()), **shares}
        text = ", ".join(f"{share} % {one}" for one, share in shares.items())
        counts = ", ".join(str(len(some)) for some in chosen.values())
        log.info("%s: split by the hash of the file names: %s: %s pictures", source, text, counts)
        few = [name for name, count in Counter(labels or ()).items() if count <= len(missing)]
        if few:
            log.warning(
                "%s: too few pictures to have some in every split: %s", source, listing(few)
            )
    return found | chosen


def _hash(name: str) -> int:
    # macOS takes the accents of file names apart.
    text = unicodedata.normalize("NFC", name).encode("utf-8", "surrogatepass")
    return int(hashlib.sha256(text).hexdigest(), 16)
