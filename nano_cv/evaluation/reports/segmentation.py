"""Report of semantic segmentation: IoU, masks and overlays at the size of the picture.

Shapes: N pictures, K classes, S side of the network's square, H and W of a picture in pixels.
"""

import base64
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nano_cv.data import images
from nano_cv.data.masks import resize_mask, restore_mask
from nano_cv.data.pictures import Resized, evenly
from nano_cv.data.progress import track
from nano_cv.evaluation import drawing, painting
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.reports import Predictions, Report
from nano_cv.evaluation.tables import class_rows, distinct
from nano_cv.files import inside, replacing, write_whole
from nano_cv.tasks.metrics import class_figures, mask_confusion, mean_known, segmentation_figures

THIN = 0.6  # IoU that thin objects cannot reach at the input's size
LOOKED_AT = 8  # masks
COLUMNS = ("file", "mIoU")  # of the table, before those of the classes


def thin_classes(resized: Resized) -> list[str]:
    """A line for each class that is so thin in the input that a good IoU is out of reach."""
    classes, size, fit = resized.pictures.classes, resized.size, resized.fit
    unknown = len(classes)  # is counted beside the classes, as a prediction
    counts = np.zeros((unknown + 1, unknown + 1), np.int64)
    for index in evenly(len(resized), LOOKED_AT):
        mask = resized.pictures.mask(index)
        height, width = mask.shape
        restored = restore_mask(resize_mask(mask, size, fit), width, height, fit)
        restored = np.where(restored == images.IGNORE, unknown, restored)
        counts += mask_confusion(mask, restored, unknown + 1)
    return [
        f"{name}: thin or small objects; the input's pixels allow an IoU of {share:.2f}; a larger "
        "model.image_size shows more"
        for name, share in zip(classes, class_figures(counts)["IoU"], strict=False)
        if share < THIN
    ]


class Measured(NamedTuple):
    """Figures of all pictures at their own sizes; the masks would not fit into memory."""

    counts: NDArray[np.int64]  # pixels of each true class (rows) by predicted class, `[K, K]`
    overlaps: NDArray[np.float64]  # mean IoU `[N]`, NaN where no pixel has a known class
    shares: NDArray[np.float64]  # of each class in the predicted mask, `[N, K]`


class SegmentationReport(Report):
    """Report of `MASK` uint8 `[N, S, S]`; targets are files of masks."""

    gate = "mIoU"
    limits: ClassVar = {"wrong_pixels": 1e-3}

    @cached_property
    def measured(self) -> Measured:
        """Measure all pictures in one pass, so that each true mask is decoded once."""
        count, classes = len(self.pictures), len(self.classes)
        measured = Measured(
            np.zeros((classes, classes), np.int64),
            np.full(count, np.nan),
            np.zeros((count, classes)),
        )
        for index in range(count):
            mask = self.restore(index)
            measured.shares[index] = np.bincount(mask.ravel(), minlength=classes) / mask.size
            if self.pictures.targets:
                counts = mask_confusion(self.pictures.mask(index), mask, classes)
                measured.counts[:] += counts
                measured.overlaps[index] = mean_known(class_figures(counts)["IoU"])
        return measured

    def restore(self, index: int) -> NDArray[np.uint8]:
        """The predicted mask of a picture at the picture's own size: uint8 `[H, W]`."""
        size, mask = self.sizes[index], self.predictions["MASK"][index]
        return restore_mask(mask, *size, self.metadata.fit)

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

    def describe(self, top: int | None) -> dict[str, Any]:
        """Size of the picture, share and colour of each class, and the mask as a PNG in base64."""
        mask, classes = self.restore(0), len(self.classes)
        shares = np.bincount(mask.ravel(), minlength=classes) / mask.size
        colours = [f"#{bytes(colour).hex()}" for colour in painting.palette(classes)]
        rows = zip(self.classes, shares.tolist(), colours, strict=False)
        return {
            "width": self.sizes[0][0],
            "height": self.sizes[0][1],
            "classes": [
                {"label": label, "share": round(share, 6), "colour": colour}
                for label, share, colour in rows
            ],
            "mask_png": base64.b64encode(painting.encode_mask(mask)).decode(),
        }

    def class_rows(self) -> list[dict[str, Any]]:
        """Share of the true pixels, precision, recall and IoU of each class."""
        counts = self.measured.counts
        figures = class_figures(counts)
        del figures["f1"]
        share = counts.sum(axis=1) / max(counts.sum(), 1)
        return class_rows(self.classes, {"share_of_pixels": share, **figures})

    def drawings(self) -> dict[str, Callable[[], Drawing]]:
        """Pictures with masks; with targets also the worst, and the confusion matrix."""
        drawings = super().drawings()
        if self.pictures.targets:
            rest = (self.measured.counts, self.drawn, "pixels", self.title)
            drawings["confusion_matrix"] = partial(drawing.confusion_matrix, *rest)
        return drawings

    def _mistakes(self) -> tuple[NDArray[Any], str]:
        return 1 - self.measured.overlaps, "the lowest mIoU"

    def _draw_sheet(self, indices: Sequence[int], what: str) -> Drawing:
        """Draw pictures with their predicted masks; with targets, beside the true masks."""
        shares, panels = self.measured.shares, 1
        drawn = [np.flatnonzero((shares[indices] > 0).any(axis=0))]
        if self.pictures.targets:
            panels = 2
            drawn += [np.unique(self.pictures.mask(index)) for index in indices]
        legend = painting.class_key(self.drawn, np.concatenate(drawn), masks=True)
        rest = (self._paint, 4 - panels, self.title_of(indices, what), legend, panels)
        return drawing.sheet(self.pictures, indices, self._caption, *rest)

    def _caption(self, index: int) -> str:
        """The mean IoU of a picture; without targets, the three classes that fill most of it."""
        if self.pictures.targets:
            iou = self.measured.overlaps[index]
            return f"truth | predicted, mIoU {'unknown' if np.isnan(iou) else f'{iou:.3f}'}"
        shares = self.measured.shares[index]
        first = [k for k in np.argsort(-shares, kind="stable")[:3] if shares[k] > 0]
        return ", ".join(f"{self.drawn[k]} {shares[k]:.1%}" for k in first)

    def _paint(self, image: Drawing, index: int) -> list[Drawing]:
        truth = [self.pictures.mask(index)] if self.pictures.targets else []
        return [painting.overlay(image, mask) for mask in (*truth, self.restore(index))]

    def write_files(self, folder: Path) -> None:
        """Write `masks/<file>.png`, palette pictures of class indices, and `overlays/<file>.jpg`.

        If names differ only in their endings, all endings are kept: `masks/a.jpg.png`.
        """
        names = self.pictures.names
        stems = [str(PurePath(name).with_suffix("")) for name in names]
        # Some disks take `A` and `a` for the same name.
        distinct = len({stem.casefold() for stem in stems}) == len(names)
        chosen = [*enumerate(stems if distinct else names)]
        for index, stem in track(chosen, len(chosen), "Writing masks"):
            mask = self.restore(index)
            image = np.asarray(images.decode(self.pictures.files[index]))
            write_whole(inside(folder / "masks", f"{stem}.png"), painting.encode_mask(mask))
            with replacing(inside(folder / "overlays", f"{stem}.jpg")) as temporary:
                Image.fromarray(painting.overlay(image, mask)).save(temporary, "JPEG", quality=92)

    @staticmethod
    def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
        """The share of pixels with another class."""
        different = expected["MASK"] != actual["MASK"]
        return {"wrong_pixels": different.reshape(len(different), -1).mean(axis=1)}
