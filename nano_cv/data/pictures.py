"""What every data set is to the rest: picture files, a target for each, and class names.

Nothing here imports torch. Shapes: N pictures, S side of the square in pixels.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.cache import Cached, cached
from nano_cv.errors import UserError, listing

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")


class Pictures:
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

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], Any]:
        """The picture at its own size, uint8 `[3, H, W]`, and its target."""
        pixels = np.array(images.decode(self.files[index])).transpose(2, 0, 1)
        return pixels, self.targets[index] if self.targets else None

    @property
    def names(self) -> list[str]:
        """The files relative to `root`, with forward slashes."""
        return [file.relative_to(self.root).as_posix() for file in self.files]


class Resized:
    """`Pictures` at one size.

    Args:
        pictures: which.
        size: side of the square that they are stretched to.
        cache: folder of decoded pictures; None decodes at each `fetch`.
    """

    def __init__(self, pictures: Pictures, size: int, cache: str | Path | None) -> None:
        self.pictures, self.size = pictures, size
        folder = Path(cache).expanduser() if cache else None
        self.cached: Cached | None = cached(pictures.files, size, folder) if folder else None

    def __len__(self) -> int:
        return len(self.pictures)

    def fetch(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """uint8 images `[N, 3, S, S]`.

        Their pixels lie channels-last, as they were decoded and as convolutions like them; from the
        cache they are one copy out of a memory-mapped array.
        """
        if self.cached:
            pixels = self.cached.pixels[np.asarray(indices, np.intp)]
        else:
            files = [self.pictures.files[index] for index in indices]
            loaded = [images.load(file, self.size) for file in files]
            pixels = np.array(loaded, np.uint8).reshape(-1, self.size, self.size, 3)
        return pixels.transpose(0, 3, 1, 2)

    def digests(self) -> list[str]:
        """The SHA-256 of each file."""
        if self.cached:
            return self.cached.digests
        return [hashlib.sha256(images.read(file)).hexdigest() for file in self.pictures.files]


def open_splits(
    dataset: Callable[..., Pictures], root: str | Path, size: int, cache: str | Path | None
) -> tuple[dict[str, Resized], str]:
    """Open all splits, decoding and checking them if that has not been done before.

    Returns:
        The splits by name, and the SHA-256 of the whole set.

    Raises:
        UserError: data not there, pictures that cannot be used, classes without pictures.
    """
    pictures = {split: dataset(root=Path(root).expanduser(), split=split) for split in SPLITS}
    splits = {split: Resized(some, size, cache) for split, some in pictures.items()}
    data_hash, twice = check(splits)
    for pair in twice[:10]:
        log.warning("The same picture in two splits: %s", pair)
    if twice:
        log.warning("%d pictures stand in two splits: test figures will flatter", len(twice))
    return splits, data_hash


def check(splits: Mapping[str, Resized]) -> tuple[str, list[str]]:
    """Look for what would spoil a training: classes without pictures, and leaks between splits.

    Returns:
        The SHA-256 of the whole set, and the pictures that stand in more than one split, named.

    Raises:
        UserError: a class has no pictures in a split.
    """
    total, twice = hashlib.sha256(), []
    seen: dict[str, tuple[str, str]] = {}
    for split, resized in splits.items():
        pictures = resized.pictures
        counts = Counter(pictures.targets)
        empty = [name for index, name in enumerate(pictures.classes) if not counts[index]]
        if empty:
            raise UserError(
                f"{pictures.root}: no pictures in '{split}' for {listing(empty)}; "
                "every class folder needs some in each split"
            )
        rows = zip(pictures.names, pictures.targets, resized.digests(), strict=True)
        for name, target, digest in sorted(rows):
            total.update(f"{split} {name} {target} {digest}\n".encode())
            first = seen.setdefault(digest, (split, name))
            if first[0] != split:
                twice.append(f"{name} ({split}) = {first[1]} ({first[0]})")
    return total.hexdigest(), twice
