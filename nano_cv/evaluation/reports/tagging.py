"""Report of several labels per picture: mean average precision, F1, worst mistakes.

Shapes: N pictures, K classes.
"""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nano_cv.data.pictures import Pictures
from nano_cv.evaluation.reports import Predictions
from nano_cv.evaluation.reports.classification import NO_LABEL, ClassificationReport
from nano_cv.evaluation.tables import class_rows
from nano_cv.metadata import Metadata
from nano_cv.tasks.score_metrics import (
    Counts,
    at_thresholds,
    count_tags,
    tag_precisions,
    tagging_figures,
)


class TaggingReport(ClassificationReport):
    """Report of `CLASS_PROBS` float32 `[N, K]`; targets are tuples of class indices."""

    gate = "mAP"
    further_gates = ("mF1", "familiar")
    limits: ClassVar = {"probability": 1e-4, "label_set": 0.0, "foreign": 1e-3}

    def __init__(self, metadata: Metadata, predictions: Predictions, pictures: Pictures) -> None:
        # Its thresholds may differ from those in the graph, and `tta` changes the probabilities.
        least = np.asarray(metadata.confidences, np.float32)
        self.found: NDArray[np.bool_] = predictions["CLASS_PROBS"] >= least
        super().__init__(metadata, {**predictions, "LABEL_SET": self.found}, pictures)

    @cached_property
    def truth(self) -> NDArray[np.bool_]:
        """Which labels each picture has `[N, K]`."""
        truth = np.zeros_like(self.found)
        for row, target in zip(truth, self.pictures.targets, strict=True):
            row[list(target)] = True
        return truth

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each picture `[N]` got all of its labels and no other."""
        return np.equal(self.found, self.truth).all(axis=1)

    @cached_property
    def by_class(self) -> list[Counts]:
        """The pictures of each class by falling probability."""
        return count_tags(self.truth, self.predictions["CLASS_PROBS"])

    def metrics(self) -> dict[str, float]:
        """`mAP`, `mF1`, `AP/<class>`, `F1/<class>` and the like, `F1`, `exact` and `familiar`.

        `mAP` is the mean of `AP/<class>`, `mF1` the mean of `F1/<class>`, and `F1` is of all labels
        together; `exact` is the share of the pictures whose labels are all right.
        """
        figures = tagging_figures(self.by_class, self.metadata.confidences, self.classes)
        right = (self.found & self.truth).sum()
        figures["F1"] = float(2 * right / max(self.found.sum() + self.truth.sum(), 1))
        figures["exact"] = float(self.right.mean())
        if self.foreign is not None:
            figures["familiar"] = 1 - float(self.foreign.mean())
        return figures

    def answer(self, index: int) -> dict[str, Any]:
        """The labels of a picture, by the name of their column."""
        return {"labels": self.label_set(index, self.classes)}

    def remarks(self) -> list[str]:
        """How many pictures are foreign; for a single picture without labels, the most probable."""
        remarks = super().remarks() if self.foreign is not None and self.foreign.any() else []
        if len(self.pictures) == 1 and not self.found.any():
            best, share = int(self.labels[0]), float(self.predictions["CLASS_PROBS"].max())
            least = self.metadata.confidences[best]
            nearest = f"the most probable is {self.classes[best]}, {share:.3g}"
            remarks.append(f"{NO_LABEL}: {nearest}, and it is given from {least:.3g} on")
        return remarks

    def class_rows(self) -> list[dict[str, Any]]:
        """Pictures, precision, recall, F1, average precision and threshold of each class."""
        columns = {
            "pictures": self.truth.sum(axis=0),
            **at_thresholds(self.by_class, self.metadata.confidences),
            "AP": tag_precisions(self.by_class),
            "threshold": np.array(self.metadata.confidences),
        }
        return class_rows(self.classes, columns)

    def answer_of(self, index: int) -> str:
        """The predicted labels, for the caption of a picture."""
        return ", ".join(self.label_set(index, self.drawn)) or NO_LABEL

    def _mistakes(self) -> tuple[NDArray[Any], str]:
        """The number of wrong labels of each picture, and of equal numbers the largest error."""
        wrong = (self.found != self.truth).sum(axis=1)
        error = np.abs(self.predictions["CLASS_PROBS"] - self.truth).max(axis=1)
        what = f"the worst of {(wrong > 0).sum()} with wrong labels"
        return np.where(wrong, wrong + error / 2, 0), what

    @staticmethod
    def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
        """As in `ClassificationReport`; but a label at its threshold may differ.

        `label_set` is 0 if a threshold for each label could give the sets of both engines; else by
        how much a label that is not given is more probable than the same label where it is given.
        """
        differences = ClassificationReport.compare(expected, actual)
        del differences["label"]
        names, both = ("CLASS_PROBS", "LABEL_SET"), (expected, actual)
        shares, given = (np.stack([outputs[name] for outputs in both]) for name in names)
        least = np.where(given, shares, np.inf).min(axis=(0, 1))
        differences["label_set"] = np.where(given, 0, shares - least).max(axis=(0, 2)).clip(min=0)
        return differences
