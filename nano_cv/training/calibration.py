"""The operating point of a trained model, fitted to the validation pictures.

A detector gets the confidence threshold of each class that gives the best F1, a classifier the
temperature that makes its probabilities honest (Guo et al. 2017, "On calibration of modern neural
networks", arXiv 1706.04599).

Shapes: N pictures, K classes.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data.pictures import Resized
from nano_cv.errors import listing
from nano_cv.evaluation import reports
from nano_cv.evaluation.engines import Torch, predict_all
from nano_cv.metadata import CONFIDENCE, Metadata
from nano_cv.tasks.metrics import best_threshold, expected_calibration_error, operating_figures
from nano_cv.tasks.task import Task

BATCH = 16
SHARPEST, FLATTEST = 1 / 8, 8.0  # temperatures
HALVINGS = 40  # of the interval between them
log = logging.getLogger(__name__)


def calibrate(task: Task, split: Resized, accelerator: str) -> tuple[Metadata, dict[str, float]]:
    """Fit the operating point of a trained task to the validation split, and say in a line what.

    Returns:
        The metadata of the task with the operating point, as it is for other tasks than
        classification and detection; and figures before and after, by name.
    """
    metadata = task.metadata
    if metadata.task not in ("classification", "detection"):
        return metadata, {}
    engine = Torch(task, Path(), accelerator)
    predictions = predict_all(engine, split.inputs, len(split), BATCH)
    task.cpu()
    if metadata.task == "classification":
        labels = np.asarray(split.pictures.targets)
        return _fit_classifier(metadata, predictions["CLASS_PROBS"], labels)
    return _fit_detector(reports.find("detection")(metadata, predictions, split.pictures))


def _fit_classifier(
    metadata: Metadata, probabilities: NDArray[Any], labels: NDArray[Any]
) -> tuple[Metadata, dict[str, float]]:
    # Up to a constant in each row, which the softmax takes away again, these are the logits.
    logits = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
    temperature = fit_temperature(logits, labels)
    before = expected_calibration_error(probabilities, labels)
    after = expected_calibration_error(softmax(logits / temperature), labels)
    said = "temperature %.3f: the calibration error of %d validation pictures is %.4f, was %.4f"
    log.info(said, temperature, len(labels), after, before)
    figures = {"val/ece_before": before, "val/ece": after}
    return replace(metadata, temperature=temperature), figures


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[Any]) -> float:
    """The temperature with the lowest mean negative log likelihood of the labels.

    With b = 1 / temperature the likelihood is convex, and its slope is the mean over all pictures
    of the expected logit less that of the label. The zero of the slope is found by bisection.

    Args:
        logits: `[N, K]`.
        labels: class indices `[N]`.

    Returns:
        1 where every picture is classified rightly: then the sharpest would be the best.
    """
    of_labels = logits[np.arange(len(labels)), labels]
    if (of_labels >= logits.max(axis=1)).all():
        return 1.0
    sharp, flat = SHARPEST, FLATTEST
    for _ in range(HALVINGS):
        middle = float(np.sqrt(sharp * flat))
        slope = ((softmax(logits / middle) * logits).sum(axis=1) - of_labels).mean()
        sharp, flat = (middle, flat) if slope > 0 else (sharp, middle)
    return round(float(np.sqrt(sharp * flat)), 6)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits `[N, K]` to probabilities."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def _fit_detector(report: Any) -> tuple[Metadata, dict[str, float]]:
    classes, counts = report.classes, report.by_class
    thresholds = [best_threshold(one, CONFIDENCE) for one in counts]
    before = _mean_f1(report, [CONFIDENCE] * len(classes))
    after = _mean_f1(report, thresholds)
    named = [f"{name} {one:.2f}" for name, one in zip(classes, thresholds, strict=True)]
    said = "boxes are shown from %s on: mean F1 of %d validation pictures %.4f; from %g on %.4f"
    log.info(said, listing(named), len(report.pictures), after, CONFIDENCE, before)
    figures = {"val/mF1_before": before, "val/mF1": after}
    return replace(report.metadata, thresholds=thresholds), figures


def _mean_f1(report: Any, thresholds: list[float]) -> float:
    figures: dict[str, float] = operating_figures(report.by_class, thresholds, report.classes)
    return figures["mF1"]
