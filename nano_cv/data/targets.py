"""Targets: what is known of the pictures of one split, brought to the network's size with them.

Three kinds, one class each (a fourth is in `tags.py`), with the same methods: `batch` for the
batches of a training, `count` for each class, `fingerprints` for the hash of a set, and `pack` for
shards. Shapes: N pictures, H
and W height and width in pixels, M boxes at most, K classes.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.cache import Cached, cached
from nano_cv.data.store import File, Member
from nano_cv.errors import listing
from nano_cv.metadata import Size, height_width

if TYPE_CHECKING:
    from nano_cv.data.pictures import Pictures  # which imports this file

log = logging.getLogger(__name__)
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
        frames: float32 `[4]`, x1 y1 x2 y2 of the picture in the input; None if the boxes are in
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


class Packed(NamedTuple):
    """A target as a file in a shard.

    Attributes:
        ending: of the file, as WebDataset names it.
        content: of the file.
        entry: what the index says of it; None if only where the file lies.
        counts: pictures, objects or pixels of each class `[K]`.
    """

    ending: str
    content: bytes
    entry: Any
    counts: NDArray[np.int64]


class Labels:
    """Class indices, for classification and generation; nothing to bring to a size.

    Attributes:
        counts: what is counted for each class.
    """

    counts = "pictures"

    def __init__(self, pictures: "Pictures", size: Size, fit: str, folder: Path | None) -> None:
        self.labels, self.classes = pictures.targets, pictures.classes

    def batch(self, indices: Sequence[int]) -> NDArray[Any]:
        """Class indices int64 `[N]`."""
        return np.array([self.labels[index] for index in indices])

    def count(self) -> NDArray[np.int64]:
        """Pictures of each class `[K]`."""
        return count_labels(self.labels, self.classes)

    def fingerprints(self) -> list[str]:
        """The class index of each picture as text."""
        return [str(label) for label in self.labels]

    def pack(self, index: int) -> Packed:
        """The class index as a text file."""
        label = self.labels[index]
        return Packed(".cls", str(label).encode(), label, count_labels([label], self.classes))


class BoxLists:
    """Boxes of objects, for detection.

    Attributes:
        counts: what is counted for each class.
        boxes: of each picture, in pixels of the input; parts outside of the picture are cut off.
    """

    counts = "objects"

    def __init__(self, pictures: "Pictures", size: Size, fit: str, folder: Path | None) -> None:
        self.pictures = pictures
        self.boxes = list(self._fit(size, fit))

    def _fit(self, size: Size, fit: str) -> Iterator[Boxes]:
        outside = []
        for file, target in zip(self.pictures.files, self.pictures.targets, strict=True):
            width, height = images.dimensions(file)
            left, top, wide, high = images.place(width, height, size, fit)
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

    def batch(self, indices: Sequence[int]) -> Boxes:
        """`Boxes` of float32 `[N, M, 4]` and `[N, 4]`, int64 and uint8 `[N, M]`.

        The label is `NO_LABEL` where a picture has fewer than M.
        """
        some = [self.boxes[index] for index in indices]
        most = max(1, *(len(one.labels) for one in some))
        boxes = np.zeros((len(some), most, 4), np.float32)
        labels = np.full((len(some), most), NO_LABEL, np.int64)
        ignored = np.full((len(some), most), COUNTED, np.uint8)
        for row, one in enumerate(some):
            filled = row, slice(len(one.labels))
            boxes[filled], labels[filled], ignored[filled] = one[:3]
        return Boxes(boxes, labels, ignored, np.stack([one.frames for one in some]))

    def count(self) -> NDArray[np.int64]:
        """Counted objects of each class `[K]`."""
        labels = [label for boxes in self.boxes for label in boxes.counted]
        return count_labels(labels, self.pictures.classes)

    def fingerprints(self) -> list[str]:
        """The SHA-256 of the boxes of each picture, in its own pixels."""
        # Sets in which every object counts have the hash that they had before `ignored` was.
        parts = [
            (one.boxes, one.labels, *([one.ignored] if one.ignored.any() else []))
            for one in self.pictures.targets
        ]
        return [
            hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
            for arrays in parts
        ]

    def pack(self, index: int) -> Packed:
        """The boxes in pixels of the picture, as JSON."""
        target = self.pictures.targets[index]
        entry = {name: getattr(target, name).tolist() for name in ("boxes", "labels", "ignored")}
        counts = count_labels(target.counted, self.pictures.classes)
        return Packed(".json", json.dumps(entry).encode(), entry, counts)


class Masks:
    """A class at each pixel, for segmentation; decoded once if there is a cache.

    Attributes:
        counts: what is counted for each class.
    """

    counts = "pixels"

    def __init__(self, pictures: "Pictures", size: Size, fit: str, folder: Path | None) -> None:
        self.pictures, self.size, self.fit = pictures, size, fit
        self.picture_of = dict(zip(pictures.targets, pictures.files, strict=True))
        self.cached: Cached | None = None
        if folder:
            way = f"mask {fit} {pictures.classes} {pictures.meaning}"
            self.cached = cached(pictures.targets, height_width(size), way, folder, self._load)

    def batch(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Masks uint8 `[N, H, W]`."""
        if self.cached:
            return self.cached.read(indices)
        files = [self.pictures.targets[index] for index in indices]
        return np.stack([self._load(file, images.read(file)) for file in files])

    def count(self) -> NDArray[np.int64]:
        """Pixels of each class `[K]`, at that size."""
        classes = self.pictures.classes
        masks = (self.batch([index]).ravel() for index in range(len(self.pictures)))
        return np.sum([count_labels(mask, classes) for mask in masks], axis=0)

    def fingerprints(self) -> list[str]:
        """SHA-256 of each mask file, with the meaning of its pixels if they are no indices."""
        meaning = self.pictures.meaning
        own = "" if meaning == images.INDICES else str(meaning)
        found = self.cached.digests if self.cached else map(sha256_of, self.pictures.targets)
        return [digest + own for digest in found]

    def pack(self, index: int) -> Packed:
        """The mask as a PNG of class indices."""
        file = self.pictures.targets[index]
        mask = self.read(file, images.read(file))
        counts = count_labels(mask.ravel(), self.pictures.classes)
        return Packed(".mask.png", images.encode_png(mask), None, counts)

    def read(self, file: File, content: bytes) -> NDArray[np.uint8]:
        """The mask out of the content of its file, uint8 `[H, W]`, as large as its picture.

        Raises:
            ImageError: not a mask, of another size than its picture, or of unknown classes.
        """
        mask = images.load_mask(content, str(file), self.pictures.meaning)
        classes, picture = self.pictures.classes, self.picture_of[file]
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

    def _load(self, file: File, content: bytes) -> NDArray[np.uint8]:
        return images.resize_mask(self.read(file, content), self.size, self.fit)


def count_labels(labels: Sequence[int] | NDArray[Any], classes: Sequence[str]) -> NDArray[np.int64]:
    """How often each class index occurs `[K]`; unknown pixels are left out."""
    found = np.asarray(labels, None if len(labels) else np.int64)
    return np.bincount(found, minlength=len(classes))[: len(classes)]


def kind_of(targets: Sequence[Any]) -> Callable[..., Labels | BoxLists | Masks]:
    """The class for such targets: the only place where their type is asked."""
    first = targets[0] if targets else None
    if isinstance(first, Boxes):
        return BoxLists
    if are_tags(targets):
        from nano_cv.data.tags import Tags

        return Tags
    return Masks if isinstance(first, Path | Member) else Labels


def are_tags(targets: Sequence[Any]) -> bool:
    """Whether pictures have any number of labels: then a target is a tuple of class indices."""
    return bool(targets) and type(targets[0]) is tuple


def sha256_of(file: File) -> str:
    """The SHA-256 of the content of a file."""
    if isinstance(file, Member):
        return file.sha256
    return hashlib.sha256(images.read(file)).hexdigest()
