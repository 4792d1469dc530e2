"""Metrics, predictions and pictures of a model, the same from train.py and from every engine."""

import csv
import json
import logging
from collections.abc import Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from nano_cv.data.progress import track
from nano_cv.errors import one_line
from nano_cv.evaluation import reports
from nano_cv.evaluation.drawing import keep
from nano_cv.evaluation.engines import Engine, Torch
from nano_cv.evaluation.inputs import Inputs
from nano_cv.evaluation.tables import CSV, cell
from nano_cv.evaluation.tracking import Logger
from nano_cv.files import replacing

METRICS = "metrics.json"
TEXTS = ("file", "label", "target")  # columns of words; all others hold numbers


log = logging.getLogger(__name__)


def evaluate(
    config: DictConfig, engine: Engine, inputs: Inputs, folder: Path, logger: Logger
) -> dict[str, float]:
    """Predict all `inputs`, write and log what a person wants to know of that.

    Into `folder`, what matters most first: `metrics.json`, `predictions.csv`, files of the task,
    then drawings, of which one that fails is a warning.

    Returns:
        The metrics by name, `test/...`, if the pictures have targets.
    """
    metadata, report = engine.metadata, reports.find(engine.metadata.task)
    limit = config.trainer.limit_test_batches if inputs.pictures.targets else 1.0
    count = limited(len(inputs.pictures), config.data.batch_size, limit)
    pictures = inputs.pictures.first(count)
    answers = predict(engine, inputs, count, config.data.batch_size, config.get("tta", False))
    given = metadata, answers, pictures

    metrics = report.metrics(*given) if pictures.targets else {}
    metrics = {f"test/{name}": value for name, value in metrics.items()}
    if metrics:
        logger.log_metrics(metrics)
        logger.log_file(_write_metrics(folder / METRICS, metrics))
    logger.log_file(_write_table(folder / "predictions.csv", report.table(*given)))
    report.write(*given, folder)
    try:
        drawings = report.draw(*given)
    except Exception as error:  # as `drawing.keep`: the figures and the table are kept already
        log.warning("The drawings are left out: %s", one_line(error))
        drawings = {}
    if config.get("gradcam") and isinstance(engine, Torch):
        from nano_cv.evaluation.gradcam import gradcam

        drawings["gradcam"] = partial(gradcam, engine.task, inputs, *given[1:])
    for name, draw in drawings.items():
        keep(name, draw, folder, logger.log_drawing)
    return metrics


def limited(count: int, batch_size: int, limit: float) -> int:
    """How many of `count` pictures `limit` leaves: 1.0 and less is a share, 1 and more batches."""
    batches = -(-count // batch_size)
    batches = limit if isinstance(limit, int) else max(1, int(batches * limit))
    return min(count, batches * batch_size)


def predict(
    engine: Engine, inputs: Inputs, count: int, batch_size: int, tta: bool = False
) -> dict[str, NDArray[Any]]:
    """The first `count` of `inputs` through the engine: outputs by name, each `[count, ...]`.

    With `tta`, test-time augmentation, a classifier's answer is the mean of those for the picture
    and for its mirror image.
    """
    parts = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    batches = []
    for part in track(parts, len(parts), "Predicting"):
        given = inputs.inputs(part)
        answers = engine.predict(given)
        if tta:
            mirrored = engine.predict({"IMAGES": given["IMAGES"][..., ::-1].copy()})
            answers = {name: (answers[name] + mirrored[name]) / 2 for name in answers}
        batches.append(answers)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _write_metrics(path: Path, metrics: Mapping[str, float]) -> Path:
    """By name; JSON knows no number for what is not finite."""
    known = {name: value if isfinite(value) else None for name, value in metrics.items()}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(known, indent=1) + "\n")
    return path


def _write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As CSV that no spreadsheet takes for formulas, with the columns of all classes."""
    with replacing(path) as temporary, temporary.open("w", **CSV) as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writerow({name: cell(name) for name in rows[0]})
        for row in rows:
            words = {name: cell(row[name]) for name in TEXTS if name in row}
            writer.writerow(row | words)
    return path
