"""Report of image classification: accuracy, macro F1, recall, confusion matrix, mistakes.

It also covers label sets, which contain the true class as often as was asked for, and foreign
pictures, which are unlike the training pictures. Shapes: N pictures, K classes.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import compress
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nano_cv.errors import listing
from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.reports import Predictions, Report
from nano_cv.evaluation.tables import WORDS, class_rows, distinct
from nano_cv.metadata import TAGGING
from nano_cv.tasks.metrics import (
    class_figures,
    classification_figures,
    confusion,
    expected_calibration_error,
)

NONE_OF_THESE = "none of these"
NO_LABEL = "no label"


class ClassificationReport(Report):
    """Report of `CLASS_PROBS` float32 `[N, K]`; targets are class indices.

    Newer models also answer `LABEL_SET` bool `[N, K]` and `FOREIGN` float32 `[N, 1]`.
    """

    gate = "accuracy"
    further_gates = ("coverage", "familiar")
    most = 24
    limits: ClassVar = {"probability": 1e-4, "label": 0.0, "label_set": 0.0, "foreign": 1e-3}

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The most probable class of each picture `[N]`."""
        return self.predictions["CLASS_PROBS"].argmax(axis=1)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each picture `[N]` got its true label."""
        return np.equal(self.labels, self.pictures.targets)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """The confusion matrix `[K, K]`."""
        return confusion(np.asarray(self.pictures.targets), self.labels, len(self.classes))

    def metrics(self) -> dict[str, float]:
        """`accuracy`, `f1`, `recall/<class>`, `ece`, `coverage`, `set_size` and `familiar`.

        `ece` is the expected calibration error, `coverage` the share of label sets that contain the
        true class, `set_size` their mean size, and `familiar` the share of the pictures that are
        not called foreign.
        """
        probabilities, truth = self.predictions["CLASS_PROBS"], np.asarray(self.pictures.targets)
        figures = classification_figures(self.counts, self.classes)
        figures["ece"] = expected_calibration_error(probabilities, truth)
        if (sets := self.predictions.get("LABEL_SET")) is not None:
            figures["coverage"] = float(sets[np.arange(len(truth)), truth].mean())
            figures["set_size"] = float(sets.sum(axis=1).mean())
        if (foreign := self.foreign) is not None:
            figures["familiar"] = 1 - float(foreign.mean())
        return figures

    @cached_property
    def foreign(self) -> NDArray[np.bool_] | None:
        """Whether each picture `[N]` is unlike the training pictures; None if not measured."""
        scores = self.predictions.get("FOREIGN")
        return None if scores is None else scores[:, 0] > 0

    def label_set(self, index: int, names: Sequence[str]) -> list[str]:
        """The label set of a picture, the most probable class first, by these names of classes."""
        order = np.argsort(-self.predictions["CLASS_PROBS"][index], kind="stable")
        return [names[label] for label in order if self.predictions["LABEL_SET"][index, label]]

    def true_labels(self, index: int, names: Sequence[str]) -> list[str]:
        """The classes that a picture truly has, by these names of classes."""
        return [names[label] for label in np.atleast_1d(self.pictures.targets[index]).astype(int)]

    def rows(self) -> list[dict[str, Any]]:
        """A row per picture: file, labels, whether it is foreign, probability of each class."""
        rows, columns = [], distinct(self.classes, WORDS)
        for index, name in enumerate(self.pictures.names):
            told = {"file": name} | self.answer(index)
            if self.pictures.targets:
                told["target"] = self.true_labels(index, self.classes)
            if self.foreign is not None:
                told["foreign"] = "yes" if self.foreign[index] else "no"
            row = {word: told[word] for word in WORDS if word in told}  # in the order of WORDS
            row |= {word: "; ".join(own) for word, own in row.items() if isinstance(own, list)}
            shares = zip(columns, self.predictions["CLASS_PROBS"][index], strict=True)
            rows.append(row | {label: f"{share:.6f}" for label, share in shares})
        return rows

    def answer(self, index: int) -> dict[str, Any]:
        """The predicted label of a picture and its label set, by the names of their columns."""
        answer: dict[str, Any] = {"label": self.classes[self.labels[index]]}
        if "LABEL_SET" in self.predictions:
            answer["label_set"] = self.label_set(index, self.classes)
        return answer

    def describe(self, top: int | None) -> dict[str, Any]:
        """Label or labels, whether the picture is foreign, and the highest probabilities."""
        shares, answer = self.predictions["CLASS_PROBS"][0], self.answer(0)
        if self.foreign is not None:
            answer["foreign"] = bool(self.foreign[0])
        order = np.argsort(-shares, kind="stable")[:top]
        shown = {self.classes[label]: round(float(shares[label]), 6) for label in order}
        return answer | {"probabilities": shown}

    def remarks(self) -> list[str]:
        """How many pictures are foreign, a single picture's label set, and classes never found."""
        count, remarks = len(self.pictures), list[str]()
        if self.foreign is not None and self.foreign.any():
            which = f"{self.foreign.sum()} of {count} pictures are"
            which = f"{self.pictures.names[0]} is" if count == 1 else which
            truth = ", though they have these labels" if self.pictures.targets else ""
            remarks.append(f"{which} {NONE_OF_THESE}: unlike the training pictures{truth}")
        elif "LABEL_SET" in self.predictions and count == 1:
            labels = listing(self.label_set(0, self.classes), most=5, separator=" or ")
            remarks.append(f"label set for a coverage of {self.metadata.coverage:.0%}: {labels}")
        if self.pictures.targets and self.metadata.task != TAGGING:
            never = class_figures(self.counts)["recall"] == 0
            if lost := [*compress(self.classes, never)]:
                remarks.append(f"no picture is recognised of {listing(lost)}")
        return remarks

    def class_rows(self) -> list[dict[str, Any]]:
        """Pictures, precision, recall and F1 of each class."""
        figures = class_figures(self.counts)
        del figures["IoU"]
        return class_rows(self.classes, {"pictures": self.counts.sum(axis=1), **figures})

    def answer_of(self, index: int) -> str:
        """The predicted label and its probability, for the caption of a picture."""
        share = self.predictions["CLASS_PROBS"][index].max()
        return f"{self.drawn[self.labels[index]]}, probability {share:.0%}"

    def caption(self, index: int) -> str:
        """The caption of a picture: the answer, and the truth if known."""
        caption = self.answer_of(index)
        if self.foreign is not None and self.foreign[index]:
            caption = f"{NONE_OF_THESE} (nearest: {caption})"
        if self.pictures.targets:
            caption += f"\ntruth: {', '.join(self.true_labels(index, self.drawn)) or NO_LABEL}"
        return caption

    def _mistakes(self) -> tuple[NDArray[Any], str]:
        """How sure each mistake is, and 0 for what is right, `[N]`."""
        confidence = self.predictions["CLASS_PROBS"].max(axis=1)
        return confidence * ~self.right, f"the most confident of {(~self.right).sum()} mistakes"

    def drawings(self) -> dict[str, Callable[[], Drawing]]:
        """Worst mistakes, confusion matrix of single labels; without targets, the pictures."""
        drawings = super().drawings()
        if self.pictures.targets:
            del drawings["predictions"]
        if self.pictures.targets and self.metadata.task != TAGGING:
            drawings["confusion_matrix"] = lambda: drawing.confusion_matrix(
                self.counts, self.drawn, title=self.title
            )
        return drawings

    def _draw_sheet(self, indices: Sequence[int], what: str) -> Drawing:
        title = self.title_of(indices, what)
        return drawing.sheet(self.pictures, indices, self.caption, title=title)

    @staticmethod
    def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
        """The largest differences of probabilities, labels, label sets and `FOREIGN`."""
        own, other = expected["CLASS_PROBS"], actual["CLASS_PROBS"]
        differences = {
            "probability": np.abs(own - other).max(axis=1),
            "label": (own.argmax(axis=1) != other.argmax(axis=1)).astype(np.float64),
        }
        if "LABEL_SET" in expected:
            differ = expected["LABEL_SET"] != actual["LABEL_SET"]
            differences["label_set"] = differ.any(axis=1).astype(np.float64)
        if "FOREIGN" in expected:
            differences["foreign"] = np.abs(expected["FOREIGN"] - actual["FOREIGN"])[:, 0]
        return differences
