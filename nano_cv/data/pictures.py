"""What every data set is to the rest: picture files, a target for each, and class names.

Nothing here imports torch. Shapes: N pictures, S side of the square in pixels, M boxes at most.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.cache import Cached, cached
from nano_cv.data.preparing import PicturesError
from nano_cv.data.store import File, Member, located
from nano_cv.errors import UserError, listing

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
NO_LABEL = -1  # of the empty places where pictures of a batch have different numbers of boxes
COUNTED, DIFFICULT, CROWD = range(3)  # see `Boxes.ignored`


class Boxes(NamedTuple):
    """Objects of a picture: the target of detection.

    Of NumPy arrays in a data set, of tensors `[B, M, ...]` in a batch.

    Attributes:
        boxes: float32 `[n, 4]`, x1 y1 x2 y2 in pixels of the upright picture.
        labels: int64 `[n]`, class indices.
        ignored: uint8 `[n]`: `COUNTED`, or `DIFFICULT` (one object) or `CROWD` (a region of many)
            for what is neither learnt nor evaluated: a prediction there is neither right nor false.
        frames: float32 `[4]`, x1 y1 x2 y2 of the picture in the square; None if the boxes are in
            pixels of the picture itself, or the picture was moved for training.
    """

    boxes: Any
    labels: Any
    ignored: Any
    frames: Any = None

    @property
    def counted(self) -> NDArray[np.int64]:
        """The labels of the objects that count."""
        labels: NDArray[np.int64] = self.labels[self.ignored == COUNTED]
        return labels

    def inside(self, width: float, height: float) -> "Boxes":
        """Cut to a picture of that size in pixels; what lies outside of it is left out."""
        boxes = self.boxes.clip(0, np.array([width, height] * 2, np.float32))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return Boxes(boxes[kept], self.labels[kept], self.ignored[kept])


@dataclass(eq=False)
class Pictures:
    """One split of a data set: picture files, a target for each, and class names.

    Attributes:
        root: folder that the names of the files are relative to.
        files: where the pictures are.
        targets: one for each file; empty if nothing is known, as for pictures to predict. A class
            index for classification and generation, `Boxes` for detection, and for segmentation the
            file of a mask: uint8, a class index at each pixel, 255 where none is known.
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
        return [
            file.name
            if isinstance(file, Member)
            else os.path.abspath(file).removeprefix(root).replace(os.sep, "/").lstrip("/")
            for file in self.files
        ]

    def first(self, count: int) -> "Pictures":
        """The first `count` of them."""
        return replace(self, files=self.files[:count], targets=self.targets[:count])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Of segmentation: the class index of each pixel, uint8 `[H, W]`."""
        return images.load_mask(self.targets[index], meaning=self.meaning)


class Resized:
    """`Pictures` in squares of one size, and their targets likewise.

    Args:
        pictures: which.
        size: side of the square in pixels.
        cache: folder of decoded pictures; None decodes at each `fetch`.
        fit: how a picture is fitted into the square, see `images.place`.

    Raises:
        UserError: pictures or masks that cannot be used; names them.
    """

    def __init__(
        self, pictures: Pictures, size: int, cache: str | Path | None, fit: str = "stretch"
    ) -> None:
        self.pictures, self.size, self.fit = pictures, size, fit
        folder = Path(cache).expanduser() if cache else None
        self.cached: Cached | None = None
        self.masks: Cached | None = None
        masks = pictures.targets if self.has_masks else []
        self._picture_of = dict(zip(masks, pictures.files, strict=False))
        if folder:
            square = (size, size)
            self.cached = cached(pictures.files, (*square, 3), fit, folder, self._load)
            if self.has_masks:
                way = f"mask {fit} {pictures.classes} {pictures.meaning}"
                self.masks = cached(masks, square, way, folder, self._load_mask)
        self.boxes = list(self._fitted_boxes()) if self.has_boxes else []

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def has_boxes(self) -> bool:
        """Whether the targets are boxes."""
        return bool(self.pictures.targets) and isinstance(self.pictures.targets[0], Boxes)

    @property
    def has_masks(self) -> bool:
        """Whether the targets are masks."""
        return bool(self.pictures.targets) and isinstance(self.pictures.targets[0], Path | Member)

    @property
    def in_shards(self) -> bool:
        """Whether pictures are read out of archives each time, so that their order matters."""
        return bool(self.pictures.shards) and not self.cached

    def inputs(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """What a model of pictures takes: `IMAGES`, see `fetch`."""
        return {"IMAGES": self.fetch(indices)}

    def fetch(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """uint8 images `[N, 3, S, S]`.

        Their pixels lie channels-last, as they were decoded and as convolutions like them.
        """
        if self.cached:
            pixels = self.cached.read(indices)
        else:
            files = [self.pictures.files[index] for index in indices]
            loaded = [self._load(file, images.read(file)) for file in files]
            pixels = np.array(loaded, np.uint8).reshape(-1, self.size, self.size, 3)
        return pixels.transpose(0, 3, 1, 2)

    def targets(self, indices: Sequence[int]) -> NDArray[Any] | Boxes:
        """The targets in pixels of the square.

        Returns:
            Class indices int64 `[N]`; or masks uint8 `[N, S, S]`; or `Boxes` of float32 `[N, M, 4]`
            and `[N, 4]`, int64 and uint8 `[N, M]`, with the label `NO_LABEL` where a picture has
            fewer than M.
        """
        if self.has_masks:
            if self.masks:
                return self.masks.read(indices)
            files = [self.pictures.targets[index] for index in indices]
            return np.stack([self._load_mask(file, images.read(file)) for file in files])
        if not self.has_boxes:
            return np.array([self.pictures.targets[index] for index in indices])
        some = [self.boxes[index] for index in indices]
        most = max(1, *(len(one.labels) for one in some))
        boxes = np.zeros((len(some), most, 4), np.float32)
        labels = np.full((len(some), most), NO_LABEL, np.int64)
        ignored = np.full((len(some), most), COUNTED, np.uint8)
        for row, one in enumerate(some):
            filled = row, slice(len(one.labels))
            boxes[filled], labels[filled], ignored[filled] = one[:3]
        return Boxes(boxes, labels, ignored, np.stack([one.frames for one in some]))

    def digests(self) -> list[str]:
        """The SHA-256 of each file."""
        if self.cached:
            return self.cached.digests
        return [_sha256(file) for file in self.pictures.files]

    def fingerprints(self) -> list[str]:
        """A text for each target, that changes when the target does."""
        if self.has_masks:
            own = "" if self.pictures.meaning == images.INDICES else str(self.pictures.meaning)
            found = self.masks.digests if self.masks else map(_sha256, self.pictures.targets)
            return [digest + own for digest in found]
        if self.has_boxes:
            # Sets in which every object counts have the hash that they had before `ignored` was.
            parts = [
                (one.boxes, one.labels, *([one.ignored] if one.ignored.any() else []))
                for one in self.pictures.targets
            ]
            return [
                hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
                for arrays in parts
            ]
        return [str(target) for target in self.pictures.targets]

    def count(self) -> NDArray[np.int64]:
        """How often each class occurs: pictures, objects or pixels, `[K]`."""
        if self.pictures.counts is not None:
            return self.pictures.counts
        classes, labels = len(self.pictures.classes), self.pictures.targets
        if self.has_masks:
            masks = (np.ravel(self.targets([index])) for index in range(len(self)))
            return np.sum([np.bincount(mask, minlength=256) for mask in masks], axis=0)[:classes]
        if self.has_boxes:
            labels = [label for boxes in self.boxes for label in boxes.counted]
        return np.bincount(np.asarray(labels, np.int64), minlength=classes)

    def _load(self, file: File, content: bytes) -> NDArray[np.uint8]:
        return images.load(content, self.size, str(file), fit=self.fit)

    def _load_mask(self, file: File, content: bytes) -> NDArray[np.uint8]:
        return images.resize_mask(self.mask(file, content), self.size, self.fit)

    def mask(self, file: File, content: bytes) -> NDArray[np.uint8]:
        """The mask out of the content of its file, uint8 `[H, W]`, as large as its picture.

        Raises:
            ImageError: not a mask, of another size than its picture, or of unknown classes.
        """
        mask = images.load_mask(content, str(file), self.pictures.meaning)
        classes = self.pictures.classes
        picture = self._picture_of[file]
        width, height = images.dimensions(picture)
        if mask.shape != (height, width):
            raise images.ImageError(
                f"{file}: {mask.shape[1]}x{mask.shape[0]} pixels, and its picture {picture} has "
                f"{width}x{height}"
            )
        unknown = set(np.unique(mask)) - set(range(len(classes))) - {images.IGNORE}
        if unknown:
            raise images.ImageError(
                f"{file}: pixels of {listing(sorted(unknown))}, and there are 0 to "
                f"{len(classes) - 1} ({listing(classes)}), and {images.IGNORE} for unknown"
            )
        return mask

    def _fitted_boxes(self) -> Iterator[Boxes]:
        """The boxes of each picture in the square; what lies outside of the picture is cut off."""
        outside = []
        for file, target in zip(self.pictures.files, self.pictures.targets, strict=True):
            width, height = images.dimensions(file)
            left, top, wide, high = images.place(width, height, self.size, self.fit)
            sides = np.array([width, height] * 2, np.float32)
            if ((target.boxes < -1) | (target.boxes > sides + 1)).any():
                outside.append(str(file))
            inside = target.inside(width, height)
            scale = np.array([wide / width, high / height] * 2, np.float32)
            boxes = inside.boxes * scale + np.array([left, top] * 2, np.float32)
            frame = np.array([left, top, left + wide, top + high], np.float32)
            yield inside._replace(boxes=boxes.astype(np.float32), frames=frame)
        if outside:
            log.warning("Boxes reach out of their pictures and were cut: %s", listing(outside))


def _sha256(file: File) -> str:
    if isinstance(file, Member):
        return file.sha256
    return hashlib.sha256(images.read(file)).hexdigest()


def open_splits(
    dataset: Callable[..., dict[str, Pictures]],
    root: str | Path,
    task: str,
    size: int,
    cache: str | Path | None,
    fit: str,
    train_size: int | None = None,
) -> tuple[dict[str, Resized], str]:
    """Open all splits, decoding and checking them if that has not been done before.

    The training pictures may be given another size.

    Returns:
        The splits by name, and the SHA-256 of the whole set.

    Raises:
        UserError: data not there, pictures that cannot be used, classes without pictures.
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
        rows = zip(pictures.names, resized.fingerprints(), resized.digests(), strict=True)
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
    boxes, masks = splits["train"].has_boxes, splits["train"].has_masks
    kind = "objects" if boxes else "pixels" if masks else "pictures"
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
