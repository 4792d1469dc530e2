"""Image classification: accuracy, macro F1, recall of each class, confusion matrix, mistakes.

Shapes: N pictures, K classes.
"""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.reports import Predictions, Report
from nano_cv.evaluation.tables import distinct
from nano_cv.tasks.metrics import (
    classification_figures,
    confusion,
    expected_calibration_error,
)

MOST = 24  # pictures on a sheet
COLUMNS = ("file", "label", "target")  # of the table, before those of the classes


class ClassificationReport(Report):
    """Report of `CLASS_PROBS` float32 `[N, K]`; targets are class indices."""

    gate = "accuracy"
    limits: ClassVar = {"probability": 1e-4, "label": 0.0}

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The most probable class of each picture `[N]`."""
        return self.predictions["CLASS_PROBS"].argmax(axis=1)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """The confusion matrix `[K, K]`."""
        return confusion(np.asarray(self.pictures.targets), self.labels, len(self.classes))

    def metrics(self) -> dict[str, float]:
        """`accuracy`, `f1`, `recall/<class>`, and `ece`, the expected calibration error."""
        probabilities, truth = self.predictions["CLASS_PROBS"], np.asarray(self.pictures.targets)
        figures = classification_figures(self.counts, self.classes)
        return figures | {"ece": expected_calibration_error(probabilities, truth)}

    def rows(self) -> list[dict[str, Any]]:
        """File, predicted label, the true one if known, and the probability of each class."""
        rows, columns = [], distinct(self.classes, COLUMNS)
        for index, name in enumerate(self.pictures.names):
            row = {"file": name, "label": self.classes[self.labels[index]]}
            if self.pictures.targets:
                row["target"] = self.classes[self.pictures.targets[index]]
            shares = zip(columns, self.predictions["CLASS_PROBS"][index], strict=True)
            rows.append(row | {label: f"{share:.6f}" for label, share in shares})
        return rows

    def drawings(self) -> dict[str, Callable[[], Drawing]]:
        """Confusion matrix and worst mistakes; without targets, pictures with their labels."""
        names = [drawing.shown(name) for name in self.classes]
        confidence = self.predictions["CLASS_PROBS"].max(axis=1)
        captions = [
            f"{names[label]} {share:.0%}"
            for label, share in zip(self.labels, confidence, strict=True)
        ]
        if not self.pictures.targets:
            some = drawing.evenly(len(self.pictures), MOST)
            return {"predictions": partial(drawing.sheet, self.pictures, some, captions)}
        targets = np.asarray(self.pictures.targets)
        captions = [
            f"{caption}\nis {names[target]}"
            for caption, target in zip(captions, targets, strict=True)
        ]
        wrong = np.flatnonzero(self.labels != targets)
        worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST].tolist()
        return {
            "confusion_matrix": partial(drawing.confusion_matrix, self.counts, self.classes),
            "worst_mistakes": partial(drawing.sheet, self.pictures, worst, captions),
        }

    @staticmethod
    def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
        """The largest difference of a probability, and whether another class wins."""
        one, other = expected["CLASS_PROBS"], actual["CLASS_PROBS"]
        return {
            "probability": np.abs(one - other).max(axis=1),
            "label": (one.argmax(axis=1) != other.argmax(axis=1)).astype(np.float64),
        }
