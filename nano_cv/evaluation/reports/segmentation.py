"""Semantic segmentation: overlap of each class, masks and overlays at the size of the picture.

Shapes: N pictures, K classes, S side of the network's square, H and W of a picture in pixels.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nano_cv.data import images
from nano_cv.data.pictures import Pictures
from nano_cv.data.progress import track
from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.reports import Predictions, confusion
from nano_cv.evaluation.tables import distinct
from nano_cv.files import inside, replacing
from nano_cv.metadata import Metadata

MOST = 12  # pictures on a sheet
COLUMNS = ("file", "mIoU")  # of the table, before those of the classes

gate = "mIoU"
limits = {"wrong_pixels": 1e-3}


def metrics(metadata: Metadata, predictions: Predictions, pictures: Pictures) -> dict[str, float]:
    """`mIoU`, `accuracy` of pixels and `IoU/<class>`, from `MASK` uint8 `[N, S, S]`.

    Measured at the size of the pictures, over the pixels of all of them.
    """
    counts = np.sum(_confusions(metadata, predictions, pictures), axis=0)
    return figures(counts, metadata.classes)


def figures(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """The same from the confusion matrix of the pixels.

    A class that occurs neither in the masks nor in the predictions does not count in the mean.
    """
    known, overlaps = _overlaps(counts)
    return {
        "mIoU": float(overlaps[known].mean()) if known.any() else 0.0,
        "accuracy": float(np.trace(counts) / max(np.sum(counts), 1)),
        **{f"IoU/{classes[index]}": float(overlaps[index]) for index in np.flatnonzero(known)},
    }


def _overlaps(counts: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which classes occur, and the intersection over union of each, from a confusion matrix."""
    right = np.diag(counts)
    either = counts.sum(axis=0) + counts.sum(axis=1) - right
    return either > 0, right / np.maximum(either, 1)


def _confusions(
    metadata: Metadata, predictions: Predictions, pictures: Pictures
) -> list[NDArray[np.int64]]:
    """Of each picture: pixels of each class `[K, K]` that are predicted (columns) as another."""
    return [
        confusion_of(
            pictures.mask(index),
            restored(metadata, predictions, pictures, index),
            len(metadata.classes),
        )
        for index in range(len(pictures.targets))
    ]


def confusion_of(
    truth: NDArray[np.uint8], mask: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    """The confusion matrix `[K, K]` of masks of any shape; pixels of 255 do not count."""
    known = truth != images.IGNORE
    return confusion(truth[known], mask[known], classes)


def restored(
    metadata: Metadata, predictions: Predictions, pictures: Pictures, index: int
) -> NDArray[np.uint8]:
    """The mask of a picture at its own size: uint8 `[H, W]`."""
    size = images.dimensions(pictures.files[index])
    return images.restore_mask(predictions["MASK"][index], *size, metadata.fit)


def table(metadata: Metadata, predictions: Predictions, pictures: Pictures) -> list[dict[str, Any]]:
    """File, mean IoU if the truth is known, and the share of each class."""
    rows = []
    confusions = _confusions(metadata, predictions, pictures) if pictures.targets else []
    columns = distinct(metadata.classes, COLUMNS)
    for index, name in enumerate(pictures.names):
        mask = restored(metadata, predictions, pictures, index)
        row: dict[str, Any] = {"file": name}
        if confusions:
            known, overlaps = _overlaps(confusions[index])
            row["mIoU"] = f"{overlaps[known].mean():.4f}" if known.any() else ""
        shares = np.bincount(mask.ravel(), minlength=len(columns)) / mask.size
        rows.append(row | {c: f"{s:.4f}" for c, s in zip(columns, shares, strict=True)})
    return rows


def draw(
    metadata: Metadata, predictions: Predictions, pictures: Pictures
) -> dict[str, Callable[[], Drawing]]:
    """Masks upon pictures; with targets, the worst pictures beside their truth."""

    def paint(image: Drawing, index: int) -> Drawing:
        return drawing.overlay(image, restored(metadata, predictions, pictures, index))

    def beside(image: Drawing, index: int) -> Drawing:
        truth = drawing.overlay(image, pictures.mask(index))
        gap = np.full((len(image), 6, 3), 255, np.uint8)
        return np.hstack([truth, gap, paint(image, index)])

    rows = table(metadata, predictions, pictures)
    some = drawing.evenly(len(pictures), MOST)
    if not pictures.targets:
        columns = distinct(metadata.classes, COLUMNS)[1:]
        captions = []
        for row in rows:
            largest = sorted(columns, key=lambda column: float(row[column]), reverse=True)[:2]
            shares = (f"{drawing.shown(c, 14)} {float(row[c]):.0%}" for c in largest)
            captions.append(", ".join(shares))
        return {"predictions": partial(drawing.sheet, pictures, some, captions, paint)}
    captions = [f"truth | predicted, mIoU {row['mIoU'] or 'unknown'}" for row in rows]
    order = sorted(range(len(rows)), key=lambda index: rows[index]["mIoU"] or "9")
    counts = np.sum(_confusions(metadata, predictions, pictures), axis=0)
    sheet = partial(drawing.sheet, captions=captions, paint=beside, columns=2)
    return {
        "confusion_matrix": partial(drawing.confusion_matrix, counts, metadata.classes, "pixels"),
        "predictions": partial(sheet, pictures, some),
        "worst_mistakes": partial(sheet, pictures, order[:MOST]),
    }


def write(metadata: Metadata, predictions: Predictions, pictures: Pictures, folder: Path) -> None:
    """`masks/<file>.png`, palette pictures of class indices, and `overlays/<file>.jpg`.

    Where two pictures differ by their endings alone, theirs stay: `masks/a.jpg.png`.
    """
    colours = drawing.palette(256).tobytes()
    stems = _different(pictures.names)
    for index, stem in track(list(enumerate(stems)), len(pictures), "Writing masks"):
        mask = restored(metadata, predictions, pictures, index)
        indexed = Image.fromarray(mask)
        indexed.putpalette(colours)
        image = np.asarray(images.decode(pictures.files[index]))
        with replacing(inside(folder / "masks", f"{stem}.png")) as temporary:
            indexed.save(temporary, "PNG")
        with replacing(inside(folder / "overlays", f"{stem}.jpg")) as temporary:
            Image.fromarray(drawing.overlay(image, mask)).save(temporary, "JPEG", quality=90)


def _different(names: Sequence[str]) -> list[str]:
    """A name for the mask of each picture, all different, also where a disk ignores case."""
    stems = [str(PurePath(name).with_suffix("")) for name in names]
    counts, taken = Counter(stem.casefold() for stem in stems), set[str]()
    found = []
    for index, (name, stem) in enumerate(zip(names, stems, strict=True)):
        wanted = stem if counts[stem.casefold()] == 1 else name
        if wanted.casefold() in taken:
            wanted = f"{name}_{index}"
        taken.add(wanted.casefold())
        found.append(wanted)
    return found


def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
    """The share of pixels with another class."""
    different = expected["MASK"] != actual["MASK"]
    return {"wrong_pixels": different.reshape(len(different), -1).mean(axis=1)}
