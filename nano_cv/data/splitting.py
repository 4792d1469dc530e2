"""What splits are called, and a split for sets that come without one."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)
CALLED = {  # what a split may be called by those who write sets
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SHARES = {"train": 70, "val": 15, "test": 15}  # per cent


def stable_split(name: str) -> str:
    """`train`, `val` or `test`, from the SHA-256 of a file's name alone.

    So a picture stays where it is when others come or go, on every machine.
    """
    place = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
    if place < SHARES["train"]:
        return "train"
    return "val" if place < SHARES["train"] + SHARES["val"] else "test"


def say_shares(source: Path, splits: Iterable[str] = SHARES) -> None:
    """Say that these splits are taken out of `source` by `stable_split`."""
    shares = ", ".join(f"{SHARES[one]} % {one}" for one in splits)
    log.info("%s: split by the hash of the file names: %s", source, shares)


def place_of(root: Path, split: str, places: Sequence[str]) -> tuple[Path, str]:
    """The first of some places for a split that is there, or the first of all; and its name there.

    Args:
        root: folder of the set.
        split: `train`, `val` or `test`.
        places: below `root`, with `{split}` for what it is called.
    """
    for name in CALLED[split]:
        for place in places:
            if (found := root / place.format(split=name)).exists():
                return found, name
    return root / places[0].format(split=split), split
