"""The kinds of targets that only some sets have, loaded where they are needed; see `targets.py`.

Shapes: N pictures, H and W height and width in pixels, M boxes at most, K classes.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.cache import key_of, pixels_of
from nano_cv.data.masks import load_mask, resize_mask
from nano_cv.data.pictures import Pictures
from nano_cv.data.store import File, Lazy
from nano_cv.data.targets import COUNTED, INDICES, NO_LABEL, Boxes, Labels, Packed, count_labels
from nano_cv.errors import listing
from nano_cv.metadata import Size, height_width

log = logging.getLogger(__name__)


class Tags(Labels):
    """Tuples of class indices, for a classification with several labels per picture."""

    kind = "labels"

    def batch(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """uint8 `[N, K]`: 1 for each label that a picture has, else 0."""
        batch = np.zeros((len(indices), len(self.classes)), np.uint8)
        for row, index in enumerate(indices):
            batch[row, list(self.labels[index])] = 1
        return batch

    def count(self) -> NDArray[np.int64]:
        """Pictures that have each label `[K]`."""
        return count_labels([label for labels in self.labels for label in labels], self.classes)

    def pack(self, index: int) -> Packed:
        """The class indices as a list in JSON."""
        own = list(self.labels[index])
        counts = count_labels(own, self.classes)
        return Packed(".json", json.dumps(own).encode(), [(label,) for label in own], counts)


class BoxLists:
    """Boxes of objects, for detection.

    Attributes:
        boxes: of each picture, in pixels of the input; parts outside of the picture are cut off.
    """

    unit, kind = "objects", "boxes"

    def __init__(self, pictures: Pictures, size: Size, fit: str, folder: Path | None) -> None:
        self.pictures, self.size, self.fit = pictures, size, fit
        self.outside: list[str] = []
        self.lost = 0
        self.boxes: Sequence[Boxes] = Lazy(range(len(pictures)), self._fit)
        if not pictures.shards:  # the sizes of loose pictures are in their files, read only once
            self.boxes = list(self.boxes)
        if self.outside:
            lost = f", and {self.lost} wholly outside left out" if self.lost else ""
            names = listing(self.outside)
            log.warning("Boxes that reach beyond their pictures were cut%s; in: %s", lost, names)

    def _fit(self, index: int) -> Boxes:
        """Bring the boxes of a picture to the size of the input."""
        file, target = self.pictures.files[index], self.pictures.targets[index]
        width, height = images.dimensions(file)
        left, top, wide, high = images.place(width, height, self.size, self.fit)
        sides = np.array([width, height] * 2, np.float32)
        inside: Boxes = target.inside(width, height)
        if not self.pictures.shards and ((target.boxes < -1) | (target.boxes > sides + 1)).any():
            self.outside.append(str(file))
            self.lost += len(target.labels) - len(inside.labels)
        scale = np.array([wide / width, high / height] * 2, np.float32)
        boxes = inside.boxes * scale + np.array([left, top] * 2, np.float32)
        frame = np.array([left, top, left + wide, top + high], np.float32)
        return inside._replace(boxes=boxes.astype(np.float32), frames=frame)

    def batch(self, indices: Sequence[int]) -> Boxes:
        """`Boxes` of float32 `[N, M, 4]` and `[N, 4]`, int64 and uint8 `[N, M]`.

        The label is `NO_LABEL` where a picture has fewer than M.
        """
        chosen = [self.boxes[index] for index in indices]
        most = max(1, *(len(target.labels) for target in chosen))
        boxes = np.zeros((len(chosen), most, 4), np.float32)
        labels = np.full((len(chosen), most), NO_LABEL, np.int64)
        ignored = np.full((len(chosen), most), COUNTED, np.uint8)
        for row, target in enumerate(chosen):
            filled = row, slice(len(target.labels))
            boxes[filled], labels[filled], ignored[filled] = target[:3]
        return Boxes(boxes, labels, ignored, np.stack([target.frames for target in chosen]))

    def count(self) -> NDArray[np.int64]:
        """Counted objects of each class `[K]`."""
        labels = [label for boxes in self.boxes for label in boxes.counted]
        return count_labels(labels, self.pictures.classes)

    def fingerprints(self) -> list[str]:
        """The SHA-256 of the boxes of each picture, in its own pixels."""
        digests = []
        for target in self.pictures.targets:
            total = hashlib.sha256(target.boxes.tobytes() + target.labels.tobytes())
            if target.ignored.any():  # left out if every object counts, as in older versions
                total.update(target.ignored.tobytes())
            digests.append(total.hexdigest())
        return digests

    def pack(self, index: int) -> Packed:
        """The boxes in pixels of the picture, as JSON."""
        target = self.pictures.targets[index]
        columns = {name: getattr(target, name).tolist() for name in ("boxes", "labels", "ignored")}
        counts = count_labels(target.counted, self.pictures.classes)
        rows = list(zip(*columns.values(), strict=True))
        return Packed(".json", json.dumps(columns).encode(), rows, counts)


class Masks:
    """A class at each pixel, for segmentation; decoded once if there is a cache."""

    unit, kind = "pixels", "mask"

    def __init__(self, pictures: Pictures, size: Size, fit: str, folder: Path | None) -> None:
        self.pictures, self.size, self.fit = pictures, size, fit
        # In shards, a mask has the size of its picture written beside it.
        loose = not pictures.shards
        self.picture_of = dict(zip(pictures.targets, pictures.files, strict=True)) if loose else {}
        # Masks are decoded anew when pictures change, so that sizes are compared again.
        key = key_of(pictures.files) if folder else ""
        way = f"mask {fit} {pictures.classes} {pictures.meaning} {key}"
        self.pixels = pixels_of(pictures.targets, height_width(size), way, folder, self._load)

    def batch(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Masks uint8 `[N, H, W]`."""
        return self.pixels.read(indices)

    def count(self) -> NDArray[np.int64]:
        """Pixels of each class `[K]`, at that size."""
        masks = (self.batch([index]).ravel() for index in range(len(self.pictures)))
        return np.sum([count_labels(mask, self.pictures.classes) for mask in masks], axis=0)

    def fingerprints(self) -> list[str]:
        """SHA-256 of each mask file, with the meaning of its pixels if they are no indices."""
        meaning = self.pictures.meaning
        own = "" if meaning == INDICES else str(meaning)
        return [digest.hex() + own for digest in self.pixels.digests.tolist()]

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
        mask = load_mask(content, str(file), self.pictures.meaning)
        classes, picture = self.pictures.classes, self.picture_of.get(file, file)
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
        return resize_mask(self.read(file, content), self.size, self.fit)
