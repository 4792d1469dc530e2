"""Metrics of several labels per picture, in NumPy. Shapes: N pictures, K classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nano_cv.tasks.metrics import Counts, operating_figures


def count_tags(truth: NDArray[np.bool_], shares: NDArray[np.float32]) -> list[Counts]:
    """The pictures of each class by falling probability, and whether they have the label.

    Args:
        truth: `[N, K]`.
        shares: probabilities `[N, K]`.
    """
    order = np.argsort(-shares, axis=0, kind="stable")
    scores, right = (np.take_along_axis(one, order, axis=0) for one in (shares, truth))
    return [Counts(*columns) for columns in zip(scores.T, right.T, truth.sum(axis=0), strict=True)]


def average_precision(counts: Counts) -> float:
    """The area under precision over recall, as scikit-learn has it; pictures must have the label.

    It is the mean of the precision over the pictures that have the label, where those of equal
    probability are counted together.
    """
    scores, right, pictures = counts
    last = np.append(scores[1:] != scores[:-1], True)
    hits = right.cumsum()[last]
    precision = hits / (np.flatnonzero(last) + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / pictures)


def tagging_figures(
    by_class: Sequence[Counts], thresholds: Sequence[float], classes: Sequence[str]
) -> dict[str, float]:
    """`mAP` and `AP/<class>`, and the figures of `operating_figures` at the thresholds.

    A class without pictures is left out, and does not count in the means.
    """
    pairs = zip(classes, by_class, strict=True)
    known = {f"AP/{name}": average_precision(one) for name, one in pairs if one.objects}
    mean = float(np.mean(list(known.values()))) if known else 0.0
    return {"mAP": mean} | operating_figures(by_class, thresholds, classes) | known
