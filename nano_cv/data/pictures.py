"""What every data set is to the rest: picture files, a target for each, and class names.

Shapes: B pictures, S side of the square in pixels.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nano_cv.data import images
from nano_cv.data.cache import Cached, cached
from nano_cv.errors import UserError, listing


class Pictures(Dataset[tuple[Tensor, Any]]):
    """Picture files with targets; a data set is a subclass that fills these in.

    Attributes:
        root: folder that the names of the files are relative to.
        files: where the pictures are.
        targets: a class index each; empty where nothing is known, as for pictures to predict.
        classes: class names; position is the class index.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        targets: Sequence[int] = (),
        classes: Sequence[str] = (),
    ) -> None:
        self.root, self.files, self.targets, self.classes = root, files, targets, list(classes)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int | None]:
        """The picture at its own size, uint8 `[3, H, W]`, and its target."""
        pixels = torch.from_numpy(np.array(images.decode(self.files[index])))
        return pixels.permute(2, 0, 1), self.targets[index] if self.targets else None

    @property
    def names(self) -> list[str]:
        """The files relative to `root`, with forward slashes."""
        return [file.relative_to(self.root).as_posix() for file in self.files]


class Batches(Dataset[tuple[Tensor, Any]]):
    """`Pictures` at one size, fetched a whole batch at a time.

    From the cache a batch is one copy out of a memory-mapped array; its pixels lie channels-last,
    as they were decoded and as convolutions like them.
    """

    def __init__(self, pictures: Pictures, size: int, cache: Path | None) -> None:
        self.pictures, self.size = pictures, size
        self.cached: Cached | None = cached(pictures.files, size, cache) if cache else None

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Any]:
        """uint8 images `[B, 3, S, S]` and int64 targets `[B]`, or None where nothing is known."""
        if self.cached:
            pixels = self.cached.pixels[indices]
        else:
            files = [self.pictures.files[index] for index in indices]
            loaded = [images.load(file, self.size) for file in files]
            pixels = np.array(loaded, np.uint8).reshape(-1, self.size, self.size, 3)
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        targets = self.pictures.targets
        return batch, torch.tensor([targets[index] for index in indices]) if targets else None

    def digests(self) -> list[str]:
        """The SHA-256 of each file."""
        if self.cached:
            return self.cached.digests
        return [hashlib.sha256(images.read(file)).hexdigest() for file in self.pictures.files]


def check(splits: Mapping[str, Batches]) -> tuple[str, list[str]]:
    """Look for what would spoil a training: classes without pictures, and leaks between splits.

    Returns:
        The SHA-256 of the whole set, and the pictures that stand in more than one split, named.

    Raises:
        UserError: a class has no pictures in a split.
    """
    total, twice = hashlib.sha256(), []
    seen: dict[str, tuple[str, str]] = {}
    for split, batches in splits.items():
        pictures = batches.pictures
        counts = Counter(pictures.targets)
        empty = [name for index, name in enumerate(pictures.classes) if not counts[index]]
        if empty:
            raise UserError(
                f"{pictures.root}: no pictures in '{split}' for {listing(empty)}; "
                "every class folder needs some in each split"
            )
        rows = zip(pictures.names, pictures.targets, batches.digests(), strict=True)
        for name, target, digest in sorted(rows):
            total.update(f"{split} {name} {target} {digest}\n".encode())
            first = seen.setdefault(digest, (split, name))
            if first[0] != split:
                twice.append(f"{name} ({split}) = {first[1]} ({first[0]})")
    return total.hexdigest(), twice
