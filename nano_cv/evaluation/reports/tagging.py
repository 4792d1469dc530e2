"""Classification with several labels per picture: mean average precision, F1, worst mistakes.

Shapes: N pictures, K classes.
"""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.reports import Predictions
from nano_cv.evaluation.reports.classification import MOST, ClassificationReport, label_set
from nano_cv.evaluation.tables import WORDS, class_rows, distinct
from nano_cv.metadata import Metadata
from nano_cv.tasks.metrics import Counts, count_tags, tagging_figures

NONE = "no label"


def found_labels(metadata: Metadata, outputs: Predictions) -> list[str]:
    """The labels of one picture, the most probable first, by `CLASS_PROBS` `[K]`."""
    found = at_threshold(metadata, outputs)
    return label_set(metadata.classes, {**outputs, "LABEL_SET": found})


def at_threshold(metadata: Metadata, outputs: Predictions) -> NDArray[np.bool_]:
    """Whether each of `CLASS_PROBS` `[..., K]` is as high as the label needs, as in the graph."""
    least = np.asarray(metadata.confidences, np.float32)
    found: NDArray[np.bool_] = outputs["CLASS_PROBS"] >= least
    return found


class TaggingReport(ClassificationReport):
    """Report of `CLASS_PROBS` float32 `[N, K]`; targets are tuples of class indices."""

    gate = "mAP"
    further_gates = ("mF1", "familiar")
    limits: ClassVar = {"probability": 1e-4, "label_set": 0.0, "foreign": 1e-3}

    @cached_property
    def truth(self) -> NDArray[np.bool_]:
        """Which labels each picture has `[N, K]`."""
        truth = np.zeros((len(self.pictures), len(self.classes)), bool)
        for row, target in zip(truth, self.pictures.targets, strict=True):
            row[list(target)] = True
        return truth

    @cached_property
    def found(self) -> NDArray[np.bool_]:
        """Which labels each picture is given `[N, K]`; with `tta`, by the mean probabilities."""
        return at_threshold(self.metadata, self.predictions)

    @cached_property
    def by_class(self) -> list[Counts]:
        """The pictures of each class by falling probability."""
        return count_tags(self.truth, self.predictions["CLASS_PROBS"])

    def metrics(self) -> dict[str, float]:
        """Figures of all probabilities, and of the labels at the thresholds.

        `mAP` and `AP/<class>` are average precisions. `mF1` is the mean of `F1/<class>`, and `F1`
        that of all labels together; `exact` is the share of the pictures whose labels are all
        right; `familiar` as for a classifier.
        """
        figures = tagging_figures(self.by_class, self.metadata.confidences, self.classes)
        right = (self.found & self.truth).sum()
        figures["F1"] = float(2 * right / max(self.found.sum() + self.truth.sum(), 1))
        figures["exact"] = float((self.found == self.truth).all(axis=1).mean())
        if self.foreign is not None:
            figures["familiar"] = 1 - float(self.foreign.mean())
        return figures

    def label_set(self, index: int) -> list[str]:
        """The labels of a picture, the most probable first."""
        return found_labels(self.metadata, {"CLASS_PROBS": self.predictions["CLASS_PROBS"][index]})

    def rows(self) -> list[dict[str, Any]]:
        """A row for each picture: labels, true ones and foreign if known, all probabilities."""
        rows, columns = [], distinct(self.classes, WORDS)
        for index, name in enumerate(self.pictures.names):
            row = {"file": name, "labels": "; ".join(self.label_set(index))}
            if self.pictures.targets:
                row["target"] = "; ".join(self.classes[one] for one in self.pictures.targets[index])
            if self.foreign is not None:
                row["foreign"] = "yes" if self.foreign[index] else "no"
            shares = zip(columns, self.predictions["CLASS_PROBS"][index], strict=True)
            rows.append(row | {label: f"{share:.6f}" for label, share in shares})
        return rows

    def remarks(self) -> list[str]:
        """Pictures unlike those of the training; the likeliest label of one picture without any."""
        said = super().remarks() if self.foreign is not None and self.foreign.any() else []
        if len(self.pictures) == 1 and not self.found.any():
            shares, least = self.predictions["CLASS_PROBS"][0], self.metadata.confidences
            best = int(shares.argmax())
            said.append(
                f"{NONE}: the most probable is {self.classes[best]}, {shares[best]:.2f}, and it is "
                f"given from {least[best]:.2f} on"
            )
        return said

    def class_rows(self) -> list[dict[str, Any]]:
        """Pictures, precision, recall, F1, average precision and threshold of each class."""
        figures, columns = self.metrics(), {"pictures": self.truth.sum(axis=0)}
        for kind in ("precision", "recall", "F1", "AP"):
            known = [figures.get(f"{kind}/{name}", np.nan) for name in self.classes]
            columns[kind] = np.array(known)
        columns["threshold"] = np.array(self.metadata.confidences)
        return class_rows(self.classes, columns)

    def drawings(self) -> dict[str, Callable[[], Drawing]]:
        """Pictures with their labels; with targets, those whose labels are most wrong."""
        sets = [self.label_set(index) for index in range(len(self.pictures))]
        captions = [drawing.shown(", ".join(some) or NONE) for some in sets]
        if not self.pictures.targets:
            some = drawing.evenly(len(self.pictures), MOST)
            return {"predictions": partial(drawing.sheet, self.pictures, some, captions)}
        captions = [
            f"{caption}\nis {', '.join(self.classes[one] for one in target) or NONE}"
            for caption, target in zip(captions, self.pictures.targets, strict=True)
        ]
        # The largest error of a probability decides between pictures with as many wrong labels.
        wrong = (self.found != self.truth).sum(axis=1)
        error = np.abs(self.predictions["CLASS_PROBS"] - self.truth).max(axis=1)
        worst = [index for index in np.lexsort((-error, -wrong)).tolist() if wrong[index]]
        return {"worst_mistakes": partial(drawing.sheet, self.pictures, worst[:MOST], captions)}

    @staticmethod
    def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
        """See `ClassificationReport`; a label whose probability is its threshold may differ.

        `label_set` is by how much a label that is not given is more probable than the same label
        of another picture, from either engine, that is given.
        """
        found = ClassificationReport.compare(expected, actual)
        shares, given = (
            np.stack([expected[name], actual[name]]) for name in ("CLASS_PROBS", "LABEL_SET")
        )
        least = np.where(given, shares, np.inf).min(axis=(0, 1))
        above = np.where(given, 0, shares - least).max(axis=(0, 2)).clip(min=0)
        return {"probability": found["probability"], "label_set": above} | {
            name: found[name] for name in ("foreign",) if name in found
        }
