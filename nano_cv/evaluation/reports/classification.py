"""Image classification: accuracy, macro F1, recall of each class, confusion matrix, mistakes.

Shapes: N pictures, K classes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data.pictures import Pictures
from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.reports import Predictions, confusion
from nano_cv.evaluation.tables import distinct
from nano_cv.metadata import Metadata

MOST = 24  # pictures on a sheet
COLUMNS = ("file", "label", "target")  # of the table, before those of the classes

gate = "accuracy"
limits = {"probability": 1e-4, "label": 0.0}


def metrics(metadata: Metadata, predictions: Predictions, pictures: Pictures) -> dict[str, float]:
    """`accuracy`, `f1` and `recall/<class>` from `CLASS_PROBS` float32 `[N, K]`."""
    return figures(_confusion(metadata, predictions, pictures), metadata.classes)


def figures(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """The same from the confusion matrix.

    F1 is the mean over the classes that occur, in the targets or in the predictions. A class
    without targets has no recall, and is left out.
    """
    right, true, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    f1 = 2 * right / np.maximum(true + predicted, 1)
    recall = right / np.maximum(true, 1)
    return {
        "accuracy": float(right.sum() / max(counts.sum(), 1)),
        "f1": float(f1[true + predicted > 0].mean()),
        **{f"recall/{classes[index]}": float(recall[index]) for index in np.flatnonzero(true)},
    }


def _confusion(
    metadata: Metadata, predictions: Predictions, pictures: Pictures
) -> NDArray[np.int64]:
    labels = predictions["CLASS_PROBS"].argmax(axis=1)
    return confusion(np.asarray(pictures.targets), labels, len(metadata.classes))


def table(metadata: Metadata, predictions: Predictions, pictures: Pictures) -> list[dict[str, Any]]:
    """File, predicted label, the true one if known, and the probability of each class."""
    classes, rows = metadata.classes, []
    columns = distinct(classes, COLUMNS)
    for index, name in enumerate(pictures.names):
        shares = predictions["CLASS_PROBS"][index]
        row = {"file": name, "label": classes[shares.argmax()]}
        if pictures.targets:
            row["target"] = classes[pictures.targets[index]]
        row |= {label: f"{share:.6f}" for label, share in zip(columns, shares, strict=True)}
        rows.append(row)
    return rows


def draw(
    metadata: Metadata, predictions: Predictions, pictures: Pictures
) -> dict[str, Callable[[], Drawing]]:
    """Confusion matrix and worst mistakes; without targets, pictures with their labels."""
    classes, probabilities = metadata.classes, predictions["CLASS_PROBS"]
    labels, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    captions = [
        f"{drawing.shown(classes[label])} {share:.0%}"
        for label, share in zip(labels, confidence, strict=True)
    ]
    some = drawing.evenly(len(pictures), MOST)
    if not pictures.targets:
        return {"predictions": partial(drawing.sheet, pictures, some, captions)}
    targets = np.asarray(pictures.targets)
    captions = [
        f"{caption}\nis {drawing.shown(classes[target])}"
        for caption, target in zip(captions, targets, strict=True)
    ]
    wrong = np.flatnonzero(labels != targets)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST].tolist()
    counts = _confusion(metadata, predictions, pictures)
    return {
        "confusion_matrix": partial(drawing.confusion_matrix, counts, classes),
        "worst_mistakes": partial(drawing.sheet, pictures, worst, captions),
    }


def write(metadata: Metadata, predictions: Predictions, pictures: Pictures, folder: Path) -> None:
    """Nothing: the table says it all."""


def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
    """The largest difference of a probability, and whether another class wins."""
    one, other = expected["CLASS_PROBS"], actual["CLASS_PROBS"]
    return {
        "probability": np.abs(one - other).max(axis=1),
        "label": (one.argmax(axis=1) != other.argmax(axis=1)).astype(np.float64),
    }
