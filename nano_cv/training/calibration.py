"""Fits thresholds, calibration and label sets of a trained model to the validation pictures.

A detector gets, for each class, the confidence threshold with the best F1. A classifier gets a
temperature that calibrates its probabilities (Guo et al. 2017, "On calibration of modern neural
networks", arXiv 1706.04599), label sets that contain the true class as often as was asked for, and
a measure of how unlike the training pictures a picture is.

Shapes: N pictures, F features, K classes.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nano_cv.data.pictures import Resized
from nano_cv.errors import listing
from nano_cv.evaluation import reports
from nano_cv.evaluation.engines import Torch, predict_all
from nano_cv.metadata import TAGGING
from nano_cv.tasks.classification import Classification, Familiarity
from nano_cv.tasks.metrics import expected_calibration_error
from nano_cv.tasks.task import Task
from nano_cv.training.probe import features_of

BATCH = 16
MIN_TEMPERATURE, MAX_TEMPERATURE = 1 / 8, 8.0  # lowest and highest temperature
HALVINGS = 40  # of the interval between them
PLANE_PICTURES = 500  # training pictures whose features set the plane of familiar features
DIMENSIONS = 32  # of this plane
FAMILIAR_SHARE = 0.95  # share of the validation pictures that count as familiar
log = logging.getLogger(__name__)


def calibrate(
    task: Task, splits: Mapping[str, Resized], coverage: float, accelerator: str
) -> dict[str, float]:
    """Fit what a classifier or a detector needs beside its weights, and log the result.

    The results go into the task's metadata and, for a classifier, into its `familiarity`. Other
    tasks are left as they are. Returns figures of the validation split before and after, by name.
    """
    engine, split, figures = Torch(task, Path(), accelerator), splits["val"], dict[str, float]()
    tagging = task.metadata.task == TAGGING
    if tagging or task.metadata.task == "detection":
        predictions = predict_all(engine, split.inputs, len(split), BATCH)
        figures = _fit_thresholds(task, split, predictions)
    if isinstance(task, Classification):
        features, logits, labels = features_of(task, split, len(split), "Calibrating")
        if not tagging:
            figures = _fit_probabilities(task, logits.double().numpy(), labels.numpy(), coverage)
        learnt = features
        if features.shape[1]:
            learnt, _, _ = features_of(task, splits["train"], PLANE_PICTURES, "Calibrating")
        if tagging and not features.shape[1]:
            # Low logits can also mean a familiar picture without any label.
            log.info("foreign pictures are not recognised: this network shows no features")
        else:
            task.familiarity = fit_familiarity(learnt, features, logits)
            if len(split) < pictures_for(FAMILIAR_SHARE):
                text = "with %d validation pictures about one familiar one in %d counts as foreign"
                log.warning(text, len(split), len(split) + 1)
    task.cpu()
    return figures


def _fit_thresholds(task: Task, split: Resized, predictions: Any) -> dict[str, float]:
    from nano_cv.tasks.score_metrics import best_threshold, operating_figures, steady_threshold

    report: Any = reports.find(task.metadata.task)(task.metadata, predictions, split.pictures)
    usual = task.metadata.confidences
    choose = steady_threshold if task.metadata.task == TAGGING else best_threshold
    thresholds = list(map(choose, report.by_class, usual))
    before, after = (
        operating_figures(report.by_class, chosen, report.classes)["mF1"]
        for chosen in (usual, thresholds)
    )
    named = [f"{name} {least:.2f}" for name, least in zip(report.classes, thresholds, strict=True)]
    text = "%s are shown from %s on: mean F1 of %d validation pictures %.4f; from %g on %.4f"
    what = "labels" if task.metadata.task == TAGGING else "boxes"
    log.info(text, what, listing(named), len(split), after, usual[0], before)
    task.metadata = replace(task.metadata, thresholds=thresholds)
    return {"val/mF1_before": before, "val/mF1": after}


def _fit_probabilities(
    task: Task, logits: NDArray[np.float64], labels: NDArray[Any], coverage: float
) -> dict[str, float]:
    temperature = fit_temperature(logits, labels)
    before = expected_calibration_error(softmax(logits), labels)
    shares = softmax(logits / temperature)
    after = expected_calibration_error(shares, labels)
    text = "temperature %.3f: calibration error of %d validation pictures %.4f, was %.4f"
    log.info(text, temperature, len(labels), after, before)

    set_from = fit_label_sets(shares[np.arange(len(labels)), labels], coverage)
    if set_from == 0:
        needed = pictures_for(coverage)
        text = "coverage=%g takes %d validation pictures, and there are %d: label sets hold all"
        log.warning(text, coverage, needed, len(labels))
    else:
        log.info("label sets for a coverage of %g: classes from %.4f on", coverage, set_from)
    task.metadata = replace(
        task.metadata, temperature=temperature, coverage=coverage, set_from=set_from
    )
    return {"val/ece_before": before, "val/ece": after}


def pictures_for(share: float) -> int:
    """Validation pictures that are needed for a limit that this share of others will keep to."""
    return math.ceil(share / (1 - share) - 1e-9)


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[Any]) -> float:
    """The temperature with the lowest mean negative log likelihood of the labels.

    In b = 1 / temperature the likelihood is convex. Its slope is the sum, over pictures, of the
    expected logit minus the logit of the label. The logarithm of the temperature has a normal prior
    around 0, which only matters to few pictures: without it, one error among four pictures would
    make all classes almost equally probable. Bisection finds the zero of the slope. Logits are
    `[N, K]`, and labels class indices `[N]`.
    """
    of_labels = logits[np.arange(len(labels)), labels]
    if (of_labels >= logits.max(axis=1)).all():  # the lowest temperature would be the best then
        return 1.0
    sharp, flat = MIN_TEMPERATURE, MAX_TEMPERATURE
    for _ in range(HALVINGS):
        middle = float(np.sqrt(sharp * flat))
        slope = ((softmax(logits / middle) * logits).sum(axis=1) - of_labels).sum() / middle
        sharp, flat = (middle, flat) if slope > np.log(middle) else (sharp, middle)
    return round(float(np.sqrt(sharp * flat)), 6)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn logits `[N, K]` into probabilities."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def fit_label_sets(shares: NDArray[np.float64], coverage: float) -> float:
    """The lowest probability of a class in a label set, so that sets reach the coverage.

    This is split-conformal prediction (Vovk et al. 2005; Angelopoulos and Bates 2021, arXiv
    2107.07511) with the sets of Sadinle et al. 2019, which were the smallest on our data sets: the
    finite-sample quantile of `shares` `[N]`, the probabilities of the true classes. The share of
    sets with the true class is `coverage`, for pictures of the same kind as the validation
    pictures. With too few of these, 0 is returned, which puts all classes into every set.
    """
    needed = math.ceil((len(shares) + 1) * coverage - 1e-9)
    if needed > len(shares):
        return 0.0
    last, following = np.append(np.sort(shares)[::-1], 0)[needed - 1 : needed + 1]
    # A little lower, because other engines round differently; but not as low as the next picture.
    return float(max(last - 1e-4, (last + following) / 2))


def fit_familiarity(learnt: Tensor, features: Tensor, logits: Tensor) -> Familiarity:
    """Lay a plane through training features, and measure the distances of validation pictures.

    Args:
        learnt: features of training pictures `[M, F]`; if F is 0, logits are measured instead.
        features: features of validation pictures `[N, F]`.
        logits: logits of validation pictures `[N, K]`.
    """
    familiarity = lay_plane(learnt) if learnt.shape[1] else Familiarity(None)
    distances = familiarity.distance(features, logits)[:, 0].sort().values
    last = min(math.ceil((len(distances) + 1) * FAMILIAR_SHARE), len(distances)) - 1
    familiarity.spread = distances.std(correction=0).clamp(min=1e-6)
    # A little higher, because other engines round differently.
    familiarity.limit = distances[last] + 1e-3 * familiarity.spread
    return familiarity


def lay_plane(features: Tensor) -> Familiarity:
    """Make a familiarity with the plane nearest to features `[N, F]`; its limit is not fitted yet.

    Few pictures get a plane of fewer dimensions, else it would go through all of them.
    """
    scaled = features / features.norm(dim=1, keepdim=True).clamp(min=1e-6)
    center = scaled.mean(dim=0)
    dimensions = max(1, min(DIMENSIONS, len(features) // 4))
    directions = torch.linalg.svd(scaled - center, full_matrices=False).Vh[:dimensions]
    familiarity = Familiarity((features.shape[1], len(directions)))
    familiarity.center, familiarity.plane = center, directions.T.contiguous()
    return familiarity
