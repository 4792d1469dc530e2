"""What splits are called, and a split for sets that come without one."""

import hashlib

CALLED = {  # what a split's folder may be called, in capitals too
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
