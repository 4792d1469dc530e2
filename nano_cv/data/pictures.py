"""What every data set is to the rest: picture files, a target for each, and class names.

Nothing here imports torch. Shapes: N pictures, H and W height and width in pixels, M boxes at most.
"""

import hashlib
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.cache import Cached, cached
from nano_cv.data.preparing import PicturesError
from nano_cv.data.store import File, Member, located
from nano_cv.data.targets import COUNTED as COUNTED
from nano_cv.data.targets import CROWD as CROWD
from nano_cv.data.targets import DIFFICULT as DIFFICULT
from nano_cv.data.targets import NO_LABEL as NO_LABEL
from nano_cv.data.targets import Boxes as Boxes
from nano_cv.data.targets import kind_of, sha256_of
from nano_cv.errors import UserError, listing
from nano_cv.metadata import Size, height_width

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
MEASURED = 500  # pictures, evenly chosen, whose shape is looked at
STEP = 32  # pixels; height and width are multiples of it, as networks that halve five times need
LONGEST = 4  # times the shorter side


@dataclass(eq=False)
class Pictures:
    """One split of a data set: picture files, a target for each, and class names.

    Attributes:
        root: folder that the names of the files are relative to.
        files: where the pictures are.
        targets: one for each file; empty if nothing is known, as for pictures to predict. A class
            index for classification and generation, or a tuple of them where pictures have several
            labels; `Boxes` for detection; and for segmentation the file of a mask: uint8, a class
            index at each pixel, 255 where none is known.
        classes: class names; position is the class index.
        meaning: what the pixels of the masks stand for.
        shards: number of the archive that each picture lies in; empty for loose files.
        counts: pictures, objects or pixels of each class `[K]`; None where nobody has counted.
    """

    root: Path
    files: Sequence[File]
    targets: Sequence[Any] = ()
    classes: list[str] = field(default_factory=list)
    meaning: images.Meaning = images.INDICES
    shards: Sequence[int] = ()
    counts: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], Any]:
        """The picture at its own size, uint8 `[3, H, W]`, and its target."""
        pixels = np.array(images.decode(self.files[index])).transpose(2, 0, 1)
        return pixels, self.targets[index] if self.targets else None

    @property
    def names(self) -> list[str]:
        """The files relative to `root`, or to the root of the disk; with forward slashes.

        Never upwards: what is drawn of a picture is written under its name into some folder.
        """
        root = os.path.join(os.path.abspath(self.root), "")

        def name(file: File) -> str:
            if isinstance(file, Member):
                return file.name
            text = str(file)
            if not text.startswith(root) or ".." in text:  # rarely; and this takes longer
                text = os.path.abspath(file)
            return text.removeprefix(root).replace(os.sep, "/").lstrip("/")

        return list(map(name, self.files))

    def first(self, count: int) -> "Pictures":
        """The first `count` of them."""
        return replace(self, files=self.files[:count], targets=self.targets[:count])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Of segmentation: the class index of each pixel, uint8 `[H, W]`."""
        return images.load_mask(self.targets[index], meaning=self.meaning)


class Resized:
    """`Pictures` at one size, and their targets likewise.

    Args:
        pictures: which.
        size: side of a square in pixels, or height and width.
        cache: folder of decoded pictures; None decodes at each `fetch`.
        fit: how a picture is fitted into that size, see `images.place`.

    Raises:
        UserError: pictures or masks that cannot be used; names them.
    """

    def __init__(
        self, pictures: Pictures, size: Size, cache: str | Path | None, fit: str = "stretch"
    ) -> None:
        self.pictures, self.size, self.fit = pictures, size, fit
        folder = Path(cache).expanduser() if cache else None
        self.cached: Cached | None = None
        if folder:
            self.cached = cached(pictures.files, self.shape, fit, folder, self._load)
        self.fitted = kind_of(pictures.targets)(pictures, size, fit, folder)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a picture: `[H, W, 3]`."""
        return *height_width(self.size), 3

    @property
    def in_shards(self) -> bool:
        """Whether pictures are read out of archives each time, so that their order matters."""
        return bool(self.pictures.shards) and not self.cached

    def inputs(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """What a model of pictures takes: `IMAGES`, see `fetch`."""
        return {"IMAGES": self.fetch(indices)}

    def fetch(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """uint8 images `[N, 3, H, W]`.

        Their pixels lie channels-last, as they were decoded and as convolutions like them.
        """
        if self.cached:
            pixels = self.cached.read(indices)
        else:
            files = [self.pictures.files[index] for index in indices]
            loaded = [self._load(file, images.read(file)) for file in files]
            pixels = np.array(loaded, np.uint8).reshape(-1, *self.shape)
        return pixels.transpose(0, 3, 1, 2)

    def targets(self, indices: Sequence[int]) -> NDArray[Any] | Boxes:
        """The targets in pixels of that size, see `batch` of their kind in `targets.py`."""
        return self.fitted.batch(indices)

    def digests(self) -> list[str]:
        """The SHA-256 of each file."""
        if self.cached:
            return self.cached.digests
        return [sha256_of(file) for file in self.pictures.files]

    def count(self) -> NDArray[np.int64]:
        """How often each class occurs: pictures, objects or pixels, `[K]`."""
        if self.pictures.counts is not None:
            return self.pictures.counts
        return self.fitted.count()

    def _load(self, file: File, content: bytes) -> NDArray[np.uint8]:
        return images.load(content, self.size, str(file), fit=self.fit)


def size_in_shape(pictures: Pictures, size: int) -> Size:
    """As many pixels as a square with sides of `size`, in the shape that most pictures have.

    Returns:
        Height and width, multiples of `STEP`; or `size` where the pictures are about square.
    """
    sizes = []
    for file in pictures.files[:: max(1, len(pictures) // MEASURED)]:
        with suppress(images.ImageError):  # is named with all others when they are decoded
            sizes.append(images.dimensions(file))
    if not sizes:
        return size
    width, height = np.median(sizes, axis=0)
    wide = math.sqrt(min(max(width / height, 1 / LONGEST), LONGEST))
    rows, columns = (max(1, round(side / STEP)) * STEP for side in (size / wide, size * wide))
    return size if rows == columns else [rows, columns]


def open_splits(
    dataset: Callable[..., dict[str, Pictures]],
    root: str | Path,
    task: str,
    size: Size,
    cache: str | Path | None,
    fit: str,
) -> tuple[dict[str, Resized], str]:
    """`open_pictures`, then `resize_splits`."""
    return resize_splits(open_pictures(dataset, root, task), size, cache, fit)


def open_pictures(
    dataset: Callable[..., dict[str, Pictures]], root: str | Path, task: str
) -> dict[str, Pictures]:
    """The splits of a data set as files, all with the same classes.

    Raises:
        UserError: data not there, or splits of different classes.
    """
    root = located(root)
    pictures: dict[str, Pictures] = {}
    try:
        pictures = dataset(root=root, task=task)
    finally:  # it may be why the set cannot be opened
        if isinstance(root, Path) and root.is_dir():
            read = (file for some in pictures.values() for file in some.files)
            images.say_what_is_passed_over(root, read)
    known = pictures["train"].classes
    for split, some in pictures.items():
        if some.classes != known:
            raise UserError(
                f"{root}: the classes of '{split}' are {listing(some.classes)}, and those of "
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
    """All splits at one size, decoded and checked if that has not been done before.

    The training pictures may be given another size.

    Returns:
        The splits by name, and the SHA-256 of the whole set.

    Raises:
        UserError: pictures that cannot be used, classes without pictures.
    """
    sizes = {"train": train_size or size}
    splits, unusable = {}, []
    for split, some in pictures.items():
        try:
            splits[split] = Resized(some, sizes.get(split, size), cache, fit)
        except PicturesError as error:
            unusable.append(str(error))
    if unusable:
        raise UserError("\n".join(unusable))
    data_hash, twice = check(splits)
    for pair in twice[:10]:
        log.warning("The same picture in two splits: %s", pair)
    if twice:
        log.warning("%d pictures stand in two splits: test figures will flatter", len(twice))
    return splits, data_hash


def check(splits: Mapping[str, Resized]) -> tuple[str, list[str]]:
    """Look for what would spoil a training: classes without pictures, and leaks between splits.

    A class that a split has nothing of is named in a warning, and so is a test split without
    pictures.

    Returns:
        The SHA-256 of the whole set, and the pictures that stand in more than one split, named.

    Raises:
        UserError: no pictures to train or to validate with, or a class that occurs in val or test
            has no training pictures.
    """
    total, twice = hashlib.sha256(), []
    seen: dict[str, tuple[str, str]] = {}
    check_classes(splits)
    for split, resized in splits.items():
        pictures = resized.pictures
        rows = zip(pictures.names, resized.fitted.fingerprints(), resized.digests(), strict=True)
        for name, target, digest in sorted(rows):
            total.update(f"{split} {name} {target} {digest}\n".encode())
            first = seen.setdefault(digest, (split, name))
            if first[0] != split:
                twice.append(f"{name} ({split}) = {first[1]} ({first[0]})")
    return total.hexdigest(), twice


def check_classes(splits: Mapping[str, Resized]) -> None:
    """Name the classes that a split lacks; see `check`."""
    root, classes = splits["train"].pictures.root, splits["train"].pictures.classes
    for split, use in (("train", "to learn from"), ("val", "to choose the best epoch by")):
        if split in splits and not len(splits[split]):
            raise UserError(f"{root}: no pictures in '{split}', and some are needed {use}")
    kind = splits["train"].fitted.counts
    has = {split: resized.count() > 0 for split, resized in splits.items() if len(resized)}
    if len(has) < len(splits):
        log.warning("%s: no pictures in 'test', so nothing is tested", root)
    used = np.any(list(has.values()), axis=0)
    unlearnt = [n for n, one in zip(classes, used & ~has["train"], strict=True) if one]
    if unlearnt and kind == "pictures":
        raise UserError(
            f"{root}: no pictures in 'train' for {listing(unlearnt)}; every class needs some; "
            f"pictures end in {' '.join(images.EXTENSIONS)}"
        )
    if not has["train"].any():
        raise UserError(f"{root}: no {kind} in 'train' for {listing(classes)}; nothing is learnt")
    if kind == "pictures" and has["train"].sum() < 2:
        raise UserError(f"{root}: pictures of at least two classes are needed in 'train'")
    unused = [name for name, one in zip(classes, used, strict=True) if not one]
    if unused:
        log.warning("%s: classes without %s, kept all the same: %s", root, kind, listing(unused))
    for split, some in has.items():
        lacking = [name for name, one in zip(classes, used & ~some, strict=True) if one]
        if lacking:
            log.warning("%s: no %s in '%s' for %s", root, kind, split, listing(lacking))
