"""Semantic segmentation: overlap of each class, masks and overlays at the size of the picture.

Shapes: N pictures, K classes, S side of the network's square, H and W of a picture in pixels.
"""

from collections import Counter
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nano_cv import drawing
from nano_cv.contract import Contract
from nano_cv.data import images
from nano_cv.data.pictures import Pictures
from nano_cv.drawing import Drawing
from nano_cv.files import inside, replacing
from nano_cv.progress import track
from nano_cv.reports import Predictions

MOST = 12  # pictures on a sheet

gate = "mIoU"
limits = {"wrong_pixels": 1e-3}


def metrics(contract: Contract, predictions: Predictions, pictures: Pictures) -> dict[str, float]:
    """`mIoU`, `accuracy` of pixels and `IoU/<class>`, from `MASK` uint8 `[N, S, S]`.

    Measured at the size of the pictures, over the pixels of all of them; those of 255 do not count.
    A class that occurs neither in the masks nor in the predictions does not count in the mean.
    """
    counts = sum(_confusions(contract, predictions, pictures))
    known, overlaps = _overlaps(np.asarray(counts))
    return {
        "mIoU": float(overlaps[known].mean()) if known.any() else 0.0,
        "accuracy": float(np.trace(counts) / max(np.sum(counts), 1)),
        **{
            f"IoU/{name}": float(overlap)
            for name, overlap in zip(contract.classes, overlaps, strict=True)
        },
    }


def _overlaps(counts: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which classes occur, and the intersection over union of each, from a confusion matrix."""
    right = np.diag(counts)
    either = counts.sum(axis=0) + counts.sum(axis=1) - right
    return either > 0, right / np.maximum(either, 1)


def _confusions(
    contract: Contract, predictions: Predictions, pictures: Pictures
) -> list[NDArray[np.int64]]:
    """Of each picture: pixels of each class `[K, K]` that are predicted (columns) as another."""
    classes, matrices = len(contract.classes), []
    for index in range(len(pictures.targets)):
        truth = pictures.mask(index)
        mask = restored(contract, predictions, pictures, index)
        known = truth != images.IGNORE
        pairs = truth[known].astype(np.int64) * classes + mask[known]
        matrices.append(np.bincount(pairs, minlength=classes**2).reshape(classes, classes))
    return matrices


def restored(
    contract: Contract, predictions: Predictions, pictures: Pictures, index: int
) -> NDArray[np.uint8]:
    """The mask of a picture at its own size: uint8 `[H, W]`."""
    size = images.dimensions(pictures.files[index])
    return images.restore_mask(predictions["MASK"][index], *size, contract.fit)


def table(contract: Contract, predictions: Predictions, pictures: Pictures) -> list[dict[str, Any]]:
    """File, mean IoU if the truth is known, and the share of each class."""
    rows = []
    confusions = _confusions(contract, predictions, pictures) if pictures.targets else []
    for index, name in enumerate(pictures.names):
        mask = restored(contract, predictions, pictures, index)
        row: dict[str, Any] = {"file": name}
        if confusions:
            known, overlaps = _overlaps(confusions[index])
            row["mIoU"] = f"{overlaps[known].mean():.4f}" if known.any() else ""
        shares = np.bincount(mask.ravel(), minlength=len(contract.classes)) / mask.size
        rows.append(row | {c: f"{s:.4f}" for c, s in zip(contract.classes, shares, strict=True)})
    return rows


def draw(contract: Contract, predictions: Predictions, pictures: Pictures) -> dict[str, Drawing]:
    """Masks upon pictures; with targets, the worst pictures beside their truth."""

    def paint(image: Drawing, index: int) -> Drawing:
        return drawing.overlay(image, restored(contract, predictions, pictures, index))

    def beside(image: Drawing, index: int) -> Drawing:
        truth = drawing.overlay(image, pictures.mask(index))
        gap = np.full((len(image), 6, 3), 255, np.uint8)
        return np.hstack([truth, gap, paint(image, index)])

    rows = table(contract, predictions, pictures)
    if not pictures.targets:
        captions = [
            ", ".join(f"{name} {float(row[name]):.0%}" for name in contract.classes[1:])
            for row in rows
        ]
        return {
            "predictions": drawing.sheet(
                pictures, drawing.evenly(len(pictures), MOST), captions, paint
            )
        }
    captions = [f"truth | predicted, mIoU {row['mIoU'] or 'unknown'}" for row in rows]
    order = sorted(range(len(rows)), key=lambda index: rows[index]["mIoU"] or "9")
    counts = np.sum(_confusions(contract, predictions, pictures), axis=0)
    some = drawing.evenly(len(pictures), MOST)
    return {
        "confusion_matrix": drawing.confusion_matrix(counts, contract.classes),
        "predictions": drawing.sheet(pictures, some, captions, beside, columns=2),
        "worst_mistakes": drawing.sheet(pictures, order[:MOST], captions, beside, columns=2),
    }


def write(contract: Contract, predictions: Predictions, pictures: Pictures, folder: Path) -> None:
    """`masks/<file>.png`, palette pictures of class indices, and `overlays/<file>.jpg`.

    Where two pictures differ by their endings alone, theirs stay: `masks/a.jpg.png`.
    """
    colours = drawing.palette(256).tobytes()
    stems = Counter(PurePath(name).with_suffix("") for name in pictures.names)
    for index, name in track(list(enumerate(pictures.names)), len(pictures), "Writing masks"):
        mask = restored(contract, predictions, pictures, index)
        indexed = Image.fromarray(mask)
        indexed.putpalette(colours)
        image = np.asarray(images.decode(pictures.files[index]))
        stem = PurePath(name).with_suffix("")
        stem = stem if stems[stem] == 1 else PurePath(name)
        with replacing(inside(folder / "masks", f"{stem}.png")) as temporary:
            indexed.save(temporary, "PNG")
        with replacing(inside(folder / "overlays", f"{stem}.jpg")) as temporary:
            Image.fromarray(drawing.overlay(image, mask)).save(temporary, "JPEG", quality=90)


def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
    """The share of pixels with another class."""
    different = expected["MASK"] != actual["MASK"]
    return {"wrong_pixels": different.reshape(len(different), -1).mean(axis=1)}
