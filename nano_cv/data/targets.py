"""Targets: what is known of the pictures of one split, brought to the network's size with them.

Four kinds, one class each: `Labels`, and in `kinds.py` `BoxLists`, `Masks` and `Tags`. All have the
same methods: `batch` for the batches of a training, `count` for each class, `fingerprints` for the
hash of a set, and `pack` for shards; `unit` says what is counted, `kind` is the name in shards.
Shapes: N pictures, M boxes at most, K classes.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.metadata import Size

if TYPE_CHECKING:
    from nano_cv.data.kinds import BoxLists, Masks
    from nano_cv.data.pictures import Pictures  # which imports this file

log = logging.getLogger(__name__)
NO_LABEL = -1  # of the empty places where pictures of a batch have different numbers of boxes
COUNTED, DIFFICULT, CROWD = range(3)  # see `Boxes.ignored`


class Meaning(NamedTuple):
    """Meaning of the pixel values of a set's masks.

    `colours` has the colour of each class, in order; if empty, a pixel is a class index. `ignore`
    has indices of unknown pixels: they are no classes, and indices above them move down.
    """

    colours: tuple[tuple[int, int, int], ...] = ()
    ignore: tuple[int, ...] = ()
    nonzero: bool = False  # all numbers but 0 are class 1, as in masks drawn in 0 and 255
    names: tuple[str, ...] = ()  # of the classes of the colours, for messages

    def __str__(self) -> str:
        """Return the text for the data hash, without `names`, so that older hashes stay valid."""
        return f"Meaning(colours={self.colours}, ignore={self.ignore}, white={self.nonzero})"

    def table(self) -> NDArray[np.uint8]:
        """Return a table, uint8 `[256]`, of the class index for each value in a mask."""
        table = np.full(256, images.IGNORE, np.uint8)
        known = [index for index in range(images.IGNORE) if index not in self.ignore]
        table[known] = np.arange(len(known))
        return table


INDICES = Meaning()


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
        return self.labels[self.ignored == COUNTED]

    def inside(self, width: float, height: float) -> "Boxes":
        """Cut to a picture of that size in pixels; what lies outside of it is left out."""
        boxes = self.boxes.clip(0, np.array([width, height] * 2, np.float32))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return Boxes(boxes[kept], self.labels[kept], self.ignored[kept])


class Packed(NamedTuple):
    """A target as a file in a shard.

    `entry` is what the index says of it: a class index, or a list with the columns of each object,
    see `formats.shards.OBJECTS`; None if only where the file lies.
    """

    ending: str  # of the file, as WebDataset names it
    content: bytes  # of the file
    entry: Any
    counts: NDArray[np.int64]  # pictures, objects or pixels of each class `[K]`


class Labels:
    """Class indices, for classification and generation; nothing to bring to a size."""

    unit, kind = "pictures", "label"

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


def count_labels(labels: Sequence[int] | NDArray[Any], classes: Sequence[str]) -> NDArray[np.int64]:
    """How often each class index occurs `[K]`; unknown pixels are left out."""
    array = np.asarray(labels, None if len(labels) else np.int64)
    return np.bincount(array, minlength=len(classes))[: len(classes)]


def kind_of(targets: Sequence[Any]) -> "Callable[..., Labels | BoxLists | Masks]":
    """The class for such targets: the only place where their type is asked."""
    first = targets[0] if targets else None
    if not isinstance(first, tuple | Path):
        return Labels
    from nano_cv.data.kinds import BoxLists, Masks, Tags

    if isinstance(first, Boxes):
        return BoxLists
    return Tags if are_tags(targets) else Masks


def are_tags(targets: Sequence[Any]) -> bool:
    """Whether pictures have any number of labels: then a target is a tuple of class indices."""
    return bool(targets) and type(targets[0]) is tuple
