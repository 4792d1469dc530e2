"""Semantic segmentation: overlap of each class, masks and overlays at the size of the picture.

Shapes: N pictures, K classes, S side of the network's square, H and W of a picture in pixels.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nano_cv.data import images
from nano_cv.data.progress import track
from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.reports import Predictions, Report
from nano_cv.evaluation.tables import class_rows, distinct
from nano_cv.files import inside, replacing
from nano_cv.tasks.metrics import (
    class_overlaps,
    counted_right,
    mask_confusion,
    ratio,
    segmentation_figures,
)

MOST = 12  # pictures on a sheet
COLUMNS = ("file", "mIoU")  # of the table, before those of the classes


class Measured(NamedTuple):
    """Figures of all pictures, at their own sizes; the masks themselves would fill the memory.

    Attributes:
        counts: pixels of each class that are predicted (columns) as another, `[K, K]`.
        overlaps: mean IoU of each picture `[N]`, NaN where no pixel has a known class.
        shares: of each class in the predicted mask, `[N, K]`.
    """

    counts: NDArray[np.int64]
    overlaps: NDArray[np.float64]
    shares: NDArray[np.float64]


class SegmentationReport(Report):
    """Report of `MASK` uint8 `[N, S, S]`; targets are files of masks."""

    gate = "mIoU"
    limits: ClassVar = {"wrong_pixels": 1e-3}

    @cached_property
    def measured(self) -> Measured:
        """One pass over the pictures, which decodes each true mask once."""
        count, classes = len(self.pictures), len(self.classes)
        found = Measured(
            np.zeros((classes, classes), np.int64),
            np.full(count, np.nan),
            np.zeros((count, classes)),
        )
        for index in range(count):
            mask = self.restore(index)
            found.shares[index] = np.bincount(mask.ravel(), minlength=classes) / mask.size
            if self.pictures.targets:
                counts = mask_confusion(self.pictures.mask(index), mask, classes)
                known, overlaps = class_overlaps(counts)
                found.counts[:] += counts
                found.overlaps[index] = overlaps[known].mean() if known.any() else np.nan
        return found

    def restore(self, index: int) -> NDArray[np.uint8]:
        """The predicted mask of a picture at the picture's own size: uint8 `[H, W]`."""
        size = images.dimensions(self.pictures.files[index])
        return images.restore_mask(self.predictions["MASK"][index], *size, self.metadata.fit)

    def metrics(self) -> dict[str, float]:
        """`mIoU`, `accuracy` of pixels and `IoU/<class>`, over the pixels of all pictures."""
        return segmentation_figures(self.measured.counts, self.classes)

    def rows(self) -> list[dict[str, Any]]:
        """File, mean IoU if the truth is known, and the share of each class."""
        rows, columns = [], distinct(self.classes, COLUMNS)
        for index, name in enumerate(self.pictures.names):
            row: dict[str, Any] = {"file": name}
            if self.pictures.targets:
                overlap = self.measured.overlaps[index]
                row["mIoU"] = "" if np.isnan(overlap) else f"{overlap:.4f}"
            shares = zip(columns, self.measured.shares[index], strict=True)
            rows.append(row | {column: f"{share:.4f}" for column, share in shares})
        return rows

    def class_rows(self) -> list[dict[str, Any]]:
        """Share of the true pixels, precision, recall and IoU of each class."""
        counts = self.measured.counts
        known, overlaps = class_overlaps(counts)
        share = ratio(counts.sum(axis=1), np.full(len(counts), counts.sum()))
        figures = {"share_of_pixels": share, **counted_right(counts)}
        figures["IoU"] = np.where(known, overlaps, np.nan)
        return class_rows(self.classes, figures)

    def drawings(self) -> dict[str, Callable[[], Drawing]]:
        """Masks upon pictures; with targets, the worst pictures beside their truth."""
        some, found = drawing.evenly(len(self.pictures), MOST), self.measured
        if not self.pictures.targets:
            names = [drawing.shown(name, 14) for name in self.classes]
            captions = [
                ", ".join(f"{names[k]} {row[k]:.0%}" for k in np.argsort(-row, kind="stable")[:2])
                for row in found.shares
            ]
            sheet = partial(drawing.sheet, captions=captions, paint=self._paint)
            return {"predictions": partial(sheet, self.pictures, some)}
        captions = [
            f"truth | predicted, mIoU {'unknown' if np.isnan(one) else f'{one:.4f}'}"
            for one in found.overlaps
        ]
        worst = np.argsort(found.overlaps, kind="stable")[:MOST].tolist()  # NaN comes last
        sheet = partial(drawing.sheet, captions=captions, paint=self._paint_beside, columns=2)
        return {
            "confusion_matrix": partial(
                drawing.confusion_matrix, found.counts, self.classes, "pixels"
            ),
            "predictions": partial(sheet, self.pictures, some),
            "worst_mistakes": partial(sheet, self.pictures, worst),
        }

    def _paint(self, image: Drawing, index: int) -> Drawing:
        return drawing.overlay(image, self.restore(index))

    def _paint_beside(self, image: Drawing, index: int) -> Drawing:
        truth = drawing.overlay(image, self.pictures.mask(index))
        gap = np.full((len(image), 6, 3), 255, np.uint8)
        return np.hstack([truth, gap, self._paint(image, index)])

    def write_files(self, folder: Path) -> None:
        """`masks/<file>.png`, palette pictures of class indices, and `overlays/<file>.jpg`.

        Where two pictures differ by their endings alone, both keep theirs: `masks/a.jpg.png`.
        """
        stems = list(enumerate(_distinct_stems(self.pictures.names)))
        for index, stem in track(stems, len(stems), "Writing masks"):
            mask = self.restore(index)
            image = np.asarray(images.decode(self.pictures.files[index]))
            with replacing(inside(folder / "masks", f"{stem}.png")) as temporary:
                drawing.indexed(mask).save(temporary, "PNG")
            with replacing(inside(folder / "overlays", f"{stem}.jpg")) as temporary:
                Image.fromarray(drawing.overlay(image, mask)).save(temporary, "JPEG", quality=90)

    @staticmethod
    def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
        """The share of pixels with another class."""
        different = expected["MASK"] != actual["MASK"]
        return {"wrong_pixels": different.reshape(len(different), -1).mean(axis=1)}


def _distinct_stems(names: Sequence[str]) -> list[str]:
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
