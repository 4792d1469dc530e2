"""Image classification: accuracy, macro F1, recall of each class, confusion matrix, mistakes.

Shapes: N pictures, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv import drawing
from nano_cv.contract import Contract
from nano_cv.drawing import Drawing
from nano_cv.reports import Fetch, Predictions

MOST = 24  # pictures on a sheet


def metrics(
    contract: Contract, predictions: Predictions, targets: Sequence[int]
) -> dict[str, float]:
    """`accuracy`, `f1` and `recall/<class>` from `CLASS_PROBS` float32 `[N, K]`.

    F1 is the mean over the classes that occur, in the targets or in the predictions; the recall of
    a class without targets is 0.
    """
    counts = confusion(contract, predictions, targets)
    right, true, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    f1 = 2 * right / np.maximum(true + predicted, 1)
    recall = right / np.maximum(true, 1)
    return {
        "accuracy": float(right.sum() / max(counts.sum(), 1)),
        "f1": float(f1[true + predicted > 0].mean()),
        **{
            f"recall/{name}": float(share)
            for name, share in zip(contract.classes, recall, strict=True)
        },
    }


def confusion(
    contract: Contract, predictions: Predictions, targets: Sequence[int]
) -> NDArray[np.int64]:
    """How often each class `[K, K]` was predicted (columns) where another is true (rows)."""
    counts = np.zeros((len(contract.classes),) * 2, np.int64)
    np.add.at(counts, (np.asarray(targets), predictions["CLASS_PROBS"].argmax(axis=1)), 1)
    return counts


def table(
    contract: Contract,
    predictions: Predictions,
    targets: Sequence[int] | None,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """File, predicted label, the true one if known, and the probability of each class."""
    classes, rows = contract.classes, []
    for index, (name, shares) in enumerate(zip(names, predictions["CLASS_PROBS"], strict=True)):
        row = {"file": name, "label": classes[shares.argmax()]}
        if targets is not None:
            row["target"] = classes[targets[index]]
        row |= {label: f"{share:.6f}" for label, share in zip(classes, shares, strict=True)}
        rows.append(row)
    return rows


def draw(
    contract: Contract,
    fetch: Fetch,
    predictions: Predictions,
    targets: Sequence[int] | None,
    names: Sequence[str],
) -> dict[str, Drawing]:
    """Confusion matrix and worst mistakes; without targets, pictures with their labels."""
    classes, probabilities = contract.classes, predictions["CLASS_PROBS"]
    labels, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    captions = [
        f"{classes[label]} {share:.0%}" for label, share in zip(labels, confidence, strict=True)
    ]
    if targets is None:
        first = range(len(names[:MOST]))
        return {"predictions": drawing.sheet(fetch(first), captions[:MOST], names[:MOST])}
    wrong = np.flatnonzero(labels != np.asarray(targets))
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST].tolist()
    mistakes = drawing.sheet(
        fetch(worst),
        [f"{captions[i]}, is {classes[targets[i]]}" for i in worst],
        [names[i] for i in worst],
    )
    counts = confusion(contract, predictions, targets)
    return {
        "confusion_matrix": drawing.confusion_matrix(counts, classes),
        "worst_mistakes": mistakes,
    }
