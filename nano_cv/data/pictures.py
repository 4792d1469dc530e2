"""Splits of a data set, the same for every format: image files, their targets, and class names.

Nothing here imports torch. Shapes: N images, H and W height and width in pixels, M boxes at most.
"""

import hashlib
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from itertools import chain, compress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.cache import Uncached, pixels_of
from nano_cv.data.preparing import PicturesError
from nano_cv.data.store import File, Member, located, texts_of
from nano_cv.data.targets import INDICES, Boxes, Meaning, kind_of
from nano_cv.errors import UserError, listing
from nano_cv.metadata import Size, height_width

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
MAX_MEASURED = 500  # number of images, evenly chosen, whose shape is measured
STEP = 32  # pixels; networks that halve the side five times need multiples of 32
MAX_ASPECT = 4  # the longer side is at most so many times the shorter side


@dataclass(eq=False)
class Pictures:
    """Split of a data set: image files, a target per file, and class names.

    Attributes:
        root: folder that the names of the files are relative to.
        files: the image files.
        targets: a target per file; empty if unknown, as for images to predict. A class index for
            classification and generation, or a tuple of class indices for several labels per image;
            `Boxes` for detection; and for segmentation the file of a mask: uint8, a class index at
            each pixel, 255 where the class is unknown.
        classes: class names; position is the class index.
        meaning: meaning of the pixel values in the masks.
        shards: number of the archive that each image lies in; empty for loose files.
        counts: images, objects or pixels per class `[K]`; None if not counted yet.
        data_hash: SHA-256 of the whole set, see `check`; empty if not known yet.
    """

    root: Path
    files: Sequence[File]
    targets: Sequence[Any] = ()
    classes: list[str] = field(default_factory=list)
    meaning: Meaning = INDICES
    shards: Sequence[int] = ()
    counts: NDArray[np.int64] | None = None
    data_hash: str = ""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def names(self) -> list[str]:
        """Paths of the files relative to `root`, or else to the disk's root; forward slashes.

        A name never leads upwards, because drawings are written under these names into folders.
        """
        root = os.path.join(os.path.abspath(self.root), "")

        def name(file: File | str) -> str:
            if isinstance(file, Member):
                return file.name
            text = str(file)
            if not text.startswith(root) or ".." in text:  # rare, for `abspath` takes longer
                text = os.path.abspath(file)
            return text.removeprefix(root).replace(os.sep, "/").lstrip("/")

        return list(map(name, texts_of(self.files)))

    def first(self, count: int) -> Self:
        """Return a copy with the first `count` images only."""
        part = copy(self)
        part.files, part.targets = self.files[:count], self.targets[:count]
        return part

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Load the mask of an image, for segmentation: class indices, uint8 `[H, W]`."""
        from nano_cv.data.masks import load_mask

        return load_mask(self.targets[index], meaning=self.meaning)


class Resized:
    """Images and targets of a split, resized to equal size.

    `cache` is the folder of decoded images; None decodes at each `fetch`.

    Raises:
        UserError: images or masks cannot be used; the message names them.
    """

    def __init__(
        self, pictures: Pictures, size: Size, cache: str | Path | None, fit: str = "stretch"
    ) -> None:
        self.pictures, self.size, self.fit = pictures, size, fit
        folder = Path(cache).expanduser() if cache else None
        self.pixels = pixels_of(pictures.files, (*height_width(size), 3), fit, folder, self._load)
        self.fitted = kind_of(pictures.targets)(pictures, size, fit, folder)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def in_shards(self) -> bool:
        """Whether images are read from archives each time, so that their order matters."""
        return bool(self.pictures.shards) and isinstance(self.pixels, Uncached)

    def inputs(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Return a model's inputs for the images at `indices`: `IMAGES`, see `fetch`."""
        return {"IMAGES": self.fetch(indices)}

    def fetch(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return the images at `indices`, uint8 `[N, 3, H, W]`.

        Their memory is channels-last, as images are decoded, and as convolutions are fastest.
        """
        return self.pixels.read(indices).transpose(0, 3, 1, 2)

    def targets(self, indices: Sequence[int]) -> NDArray[Any] | Boxes:
        """Return the targets in pixels of `size`; see the `batch` methods in `targets.py`."""
        return self.fitted.batch(indices)

    def count(self) -> NDArray[np.int64]:
        """Count the images, objects or pixels of each class, `[K]`."""
        if self.pictures.counts is not None:
            return self.pictures.counts
        return self.fitted.count()

    def _load(self, file: File, content: bytes) -> NDArray[np.uint8]:
        return images.load(content, self.size, str(file), fit=self.fit)


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spaced: a sorted list begins with similar ones."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


def full_first(count: int, most: int, is_empty: Callable[[int], bool]) -> list[int]:
    """At most `most` of `count` indices, evenly spaced among those of pictures with objects.

    Only if these are too few, others follow. In large sets not all pictures are looked at.
    """
    chosen, looked_at = list[int](), evenly(count, MAX_MEASURED)
    for empty in (False, True):
        group = [index for index in looked_at if is_empty(index) == empty]
        chosen += [group[place] for place in evenly(len(group), most - len(chosen))]
    return sorted(chosen)


def size_in_shape(pictures: Pictures, size: int) -> Size:
    """Choose a size with the median shape of the images, and about `size` x `size` pixels.

    Height and width are multiples of `STEP`; if the images are about square, `size` is returned.
    """
    sizes = []
    for index in evenly(len(pictures), MAX_MEASURED):
        with suppress(images.ImageError):  # bad images are reported later, when all are decoded
            sizes.append(images.dimensions(pictures.files[index]))
    return shaped(sizes, size) if sizes else size


def shaped(sizes: Sequence[tuple[int, int]], size: int) -> Size:
    """Return a size with the median shape of such widths and heights; see `size_in_shape`."""
    width, height = np.median(sizes, axis=0)
    wide = math.sqrt(min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT))
    rows, columns = (max(1, round(side / STEP)) * STEP for side in (size / wide, size * wide))
    return size if rows == columns else [rows, columns]


def open_pictures(
    dataset: Callable[..., dict[str, Pictures]], root: str | Path, task: str
) -> dict[str, Pictures]:
    """Read the splits of a data set as files, and check that they have the same classes.

    Raises:
        UserError: missing data, or splits with different classes.
    """
    root = located(root)
    pictures: dict[str, Pictures] = {}
    try:
        pictures = dataset(root=root, task=task)
    except UserError as error:
        from nano_cv.data.formats.guessing import hint_at_format

        reader = getattr(getattr(dataset, "func", dataset), "__name__", "")
        hint = hint_at_format(root, reader) if isinstance(root, Path) else ""
        raise UserError(f"{error}{hint}") from error
    finally:  # also after an error, as files that are not read may be its cause
        if isinstance(root, Path) and root.is_dir():
            images.warn_of_unread_files(root, chain(*(part.files for part in pictures.values())))
    known = pictures["train"].classes
    for split, part in pictures.items():
        if part.classes != known:
            raise UserError(
                f"{root}: the classes of '{split}' are {listing(part.classes)}, and those of "
                f"'train' {listing(known)}"
            )
    return pictures


def resize_splits(
    pictures: Mapping[str, Pictures],
    size: Size,
    cache: str | Path | None,
    fit: str,
    train_size: Size | None = None,
) -> tuple[dict[str, Resized], str]:
    """Resize all splits, and check them; decodes images that are not cached yet.

    Training images get `train_size`, if it is given. Returns the splits by name, and the
    SHA-256 of the whole set.

    Raises:
        UserError: images of any split that cannot be used, or classes without images.
    """
    splits, unusable = {}, []
    for split, part in pictures.items():
        own = train_size if train_size and split == "train" else size
        try:
            splits[split] = Resized(part, own, cache, fit)
        except PicturesError as error:
            unusable.append(str(error))
    if unusable:
        raise UserError("\n".join(unusable))
    return splits, check(splits)


def check(splits: Mapping[str, Resized]) -> str:
    """Check for faults that would spoil a training: classes without images, leaks between splits.

    A class that does not occur in a split causes a warning, and so does an empty test split, and an
    image in two splits; those of a set in shards, which has a hash, its reader has warned of.
    Returns the SHA-256 of the whole set.

    Raises:
        UserError: no images to train or to validate with, or a class that occurs in val or test has
            no training images.
    """
    check_classes(splits)
    if known := splits["train"].pictures.data_hash:
        return known
    total = hashlib.sha256()
    names = {split: resized.pictures.names for split, resized in splits.items()}
    sums = {split: resized.pixels.digests for split, resized in splits.items()}
    for split, resized in splits.items():
        rows = zip(names[split], resized.fitted.fingerprints(), sums[split].tolist(), strict=True)
        for name, target, digest in sorted(rows):
            total.update(f"{split} {name} {target} {digest.hex()}\n".encode())
    alike = splits["train"].fitted.unit == "pictures"
    labels = [label for part in splits.values() for label in part.pictures.targets] if alike else []
    warn_of_twins(sums, lambda split, index: names[split][index], labels)
    return total.hexdigest()


def warn_of_twins(
    digests: Mapping[str, NDArray[np.void]],
    name_of: Callable[[str, int], str],
    labels: Sequence[Any] = (),
) -> None:
    """Warn of images that are in two splits, by their `digests`, `[N]` of 32 bytes; names ten.

    With the `labels` of all images, also of those that are twice in a split with different labels.
    """
    # The first eight bytes tell images apart, and integers are compared much faster than bytes.
    numbers = [np.ascontiguousarray(sums).view(np.uint64)[::4] for sums in digests.values()]
    _, first, same = np.unique(np.concatenate(numbers), return_index=True, return_inverse=True)
    splits, ends = list(digests), np.cumsum(list(map(len, numbers)))
    split_of = np.searchsorted(ends, np.arange(ends[-1]), side="right")

    def named(at: int) -> str:
        split = splits[split_of[at]]  # in which the position is counted from the end
        return f"{name_of(split, int(at - ends[split_of[at]]))} ({split})"

    other = first[same]
    twice = np.flatnonzero(split_of[other] != split_of)
    for index in twice[:10]:
        log.warning("The same picture in two splits: %s = %s", named(index), named(other[index]))
    again = np.flatnonzero((split_of[other] == split_of) & (other != np.arange(ends[-1])))
    differing = [index for index in again if labels and labels[index] != labels[other[index]]]
    for index in differing[:10]:
        log.warning("The same picture with two labels: %s = %s", named(index), named(other[index]))
    if len(twice):
        log.warning("%d pictures are in two splits: test metrics will be too good", len(twice))


def check_classes(splits: Mapping[str, Resized]) -> None:
    """Check that the splits have images of all classes; see `check`."""
    root, classes = splits["train"].pictures.root, splits["train"].pictures.classes
    for split, use in (("train", "to learn from"), ("val", "to choose the best epoch by")):
        if split in splits and not len(splits[split]):
            raise UserError(f"{root}: no pictures in '{split}', and some are needed {use}")
    kind = splits["train"].fitted.unit
    has = {split: resized.count() > 0 for split, resized in splits.items() if len(resized)}
    if len(has) < len(splits):
        log.warning("%s: no pictures in 'test', so nothing is tested", root)
    used = np.any(list(has.values()), axis=0)
    unlearnt = list(compress(classes, used & ~has["train"]))
    if unlearnt and kind == "pictures":
        raise UserError(
            f"{root}: no pictures in 'train' for {listing(unlearnt)}; every class needs some; "
            f"pictures end in {' '.join(images.EXTENSIONS)}"
        )
    if not has["train"].any():
        raise UserError(f"{root}: no {kind} in 'train' for {listing(classes)}; nothing is learnt")
    if kind != "objects" and has["train"].sum() < 2:
        only = classes[int(has["train"].argmax())]
        needed = f"{kind} of at least two classes are needed"
        thin = " at the network's size, where thin lines may vanish" * (kind == "pixels")
        raise UserError(f"{root}: only '{only}' in 'train'{thin}; nothing is learnt: {needed}")
    if unused := list(compress(classes, ~used)):
        log.warning("%s: classes without %s, kept all the same: %s", root, kind, listing(unused))
    for split, present in has.items():
        if lacking := list(compress(classes, used & ~present)):
            log.warning("%s: no %s in '%s' for %s", root, kind, split, listing(lacking))
