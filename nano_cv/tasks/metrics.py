"""Every metric, in NumPy: validation during training and the reports use the same functions.

Those of boxes, and of several labels per picture, are in `score_metrics.py`.

Shapes: N pictures, K classes, n boxes of one picture.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images

BINS = 15  # of the calibration error


def confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Confusion matrix `[K, K]` of class indices of any shape: rows are true, columns predicted."""
    pairs = truth.astype(np.int64) * classes + predicted
    return np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)


def without_prediction(counts: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    """Names of classes that occur but were never predicted, from a confusion matrix `[K, K]`."""
    missed = (counts.sum(axis=1) > 0) & (counts.sum(axis=0) == 0)
    return [classes[index] for index in np.flatnonzero(missed)]


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """`part / whole`, and NaN where `whole` is 0."""
    unknown = np.full(part.shape, np.nan)
    return np.divide(part, whole, out=unknown, where=whole > 0)


def mean_known(values: NDArray[np.float64]) -> float:
    """The mean of the values that are not NaN; NaN if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def by_name(kind: str, values: NDArray[np.float64], classes: Sequence[str]) -> dict[str, float]:
    """The known figures of the classes `[K]` as `<kind>/<class>`."""
    known = np.flatnonzero(~np.isnan(values))
    return {f"{kind}/{classes[index]}": float(values[index]) for index in known}


def class_figures(counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Precision, recall, F1 and IoU of each class `[K]` from a confusion matrix, rows the truth.

    NaN where a figure is unknown: the precision without predictions, the recall without targets,
    F1 and IoU (intersection over union) without either.
    """
    right, true, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    return {
        "precision": ratio(right, predicted),
        "recall": ratio(right, true),
        "f1": ratio(2 * right, true + predicted),
        "IoU": ratio(right, true + predicted - right),
    }


def share_right(counts: NDArray[np.int64]) -> float:
    """The share of a confusion matrix on its diagonal."""
    return float(np.trace(counts) / max(np.sum(counts), 1))


# Classification


def classification_figures(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """`accuracy`, `f1` and `recall/<class>` from the confusion matrix `[K, K]`.

    F1 is the mean over the classes that occur, in the targets or in the predictions.
    """
    figures = class_figures(counts)
    recalls = by_name("recall", figures["recall"], classes)
    return {"accuracy": share_right(counts), "f1": mean_known(figures["f1"]), **recalls}


def expected_calibration_error(probabilities: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean difference between the probability of the predicted class and the share of right ones.

    The differences are those of `BINS` intervals of equal width, weighted by their numbers of
    pictures (Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning").
    `probabilities` are `[N, K]`, `labels` are the true classes `[N]`.
    """
    sure = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    which = np.ceil(sure * BINS).astype(np.int64).clip(1, BINS)
    gaps = np.bincount(which, weights=right - sure)
    return float(np.abs(gaps).sum() / max(len(labels), 1))


# Segmentation


def segmentation_figures(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """`mIoU`, `accuracy` and `IoU/<class>` from the confusion matrix of pixels `[K, K]`.

    A class that occurs neither in the masks nor in the predictions does not count in the mean.
    """
    overlaps = class_figures(counts)["IoU"]
    figures = {"mIoU": mean_known(overlaps), "accuracy": share_right(counts)}
    return figures | by_name("IoU", overlaps, classes)


def mask_confusion(
    truth: NDArray[np.uint8], mask: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    """The confusion matrix `[K, K]` of two masks of one shape; pixels of 255 do not count."""
    known = truth != images.IGNORE
    return confusion(truth[known], mask[known], classes)
