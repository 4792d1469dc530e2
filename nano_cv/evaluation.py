"""Metrics, predictions and pictures of a model, the same from train.py and from every engine."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from nano_cv import reports
from nano_cv.drawing import Drawing, save
from nano_cv.engines import Engine, Torch
from nano_cv.files import replacing
from nano_cv.inputs import Inputs
from nano_cv.progress import track
from nano_cv.tracking import Logger


def evaluate(
    config: DictConfig, engine: Engine, inputs: Inputs, folder: Path, logger: Logger
) -> dict[str, float]:
    """Predict all `inputs`, write `predictions.csv`, drawings and files into `folder`, log them.

    Returns:
        The metrics by name, `test/...`, if the pictures have targets.
    """
    with logger:
        contract, report = engine.contract, reports.find(engine.contract.task)
        limit = config.trainer.limit_test_batches if inputs.pictures.targets else 1.0
        count = limited(len(inputs.pictures), config.data.batch_size, limit)
        pictures = inputs.pictures.first(count)
        answers = predict(engine, inputs, count, config.data.batch_size, config.get("tta", False))
        given = contract, answers, pictures

        metrics = report.metrics(*given) if pictures.targets else {}
        metrics = {f"test/{name}": value for name, value in metrics.items()}
        report.write(*given, folder)
        drawings = report.draw(*given)
        if config.get("gradcam") and isinstance(engine, Torch):
            from nano_cv.explain import gradcam

            drawings["gradcam"] = gradcam(engine.task, inputs, *given[1:])
        _write(folder, metrics, report.table(*given), drawings, logger)
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


def _write(
    folder: Path,
    metrics: Mapping[str, float],
    rows: list[dict[str, Any]],
    drawings: Mapping[str, Drawing],
    logger: Logger,
) -> None:
    if metrics:
        logger.log_metrics(metrics)
    table = folder / "predictions.csv"
    with replacing(table) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    for name, drawing in drawings.items():
        save(drawing, folder / f"{name}.png")
        logger.log_drawing(name, drawing)
    logger.log_file(table)
