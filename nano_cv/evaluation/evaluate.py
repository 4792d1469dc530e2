"""Evaluates a model: metrics, tables and drawings, the same for train.py and every engine."""

import json
import logging
from collections.abc import Mapping
from functools import partial
from math import isfinite, isnan
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from omegaconf import DictConfig

from nano_cv.data.pictures import Resized
from nano_cv.errors import UserError
from nano_cv.evaluation import reports
from nano_cv.evaluation.drawing import write_drawing
from nano_cv.evaluation.engines import Engine, Torch, predict_all
from nano_cv.evaluation.tables import write_table
from nano_cv.evaluation.terminal import print_rows
from nano_cv.evaluation.tracking import Logger
from nano_cv.files import write_whole
from nano_cv.metadata import Metadata, shared_weights

if TYPE_CHECKING:
    from nano_cv.data.imagined import Imagined

METRICS = "metrics.json"
Inputs: TypeAlias = "Resized | Imagined"  # pictures, and the inputs of a model for them
log = logging.getLogger(__name__)


def evaluate(
    config: DictConfig, engine: Engine, inputs: Inputs, folder: Path, logger: Logger
) -> dict[str, float]:
    """Predict all `inputs`, write the report into `folder`, and log it.

    The most important files are written first: metrics, tables, files of the task, then drawings.
    Returns the metrics by name, `test/...`; none if the pictures have no targets.
    """
    size = config.data.batch_size
    limit = config.trainer.limit_test_batches if inputs.pictures.targets else 1.0
    count = limit_count(len(inputs.pictures), size, limit)
    metadata = engine.metadata.at_confidence(config.get("confidence"))
    if config.get("tta") and not engine.metadata.mirrored:
        name = engine.metadata.name
        raise UserError(f"tta=true: {name} was trained without mirrored pictures; leave tta out")
    predictions = predict_all(engine, inputs.inputs, count, size, config.get("tta", False))
    report = reports.find(metadata.task)(metadata, predictions, inputs.pictures.first(count))

    figures = report.metrics() if inputs.pictures.targets else {}
    metrics = {f"test/{name}": value for name, value in figures.items()}
    if figures:
        # The first metric stands in the title of every drawing.
        name, value = next(iter(figures.items()))
        report.title += f" on the test split of {config.data.name}\n"
        known = "unknown" if isnan(value) else f"{value:.3f}"
        report.title += f"{count} {report.unit}: {name} {known}"
        logger.log_metrics(metrics)
        logger.log_file(write_metrics(folder / METRICS, metrics))
    rows = report.rows()
    logger.log_file(write_table(folder / "predictions.csv", rows))
    if metrics and (classes := report.class_rows()):
        logger.log_file(write_table(folder / "classes.csv", classes))
    if config.get("input") is not None:
        print_rows(rows, report.remarks())
    else:
        for remark in report.remarks():
            log.info("%s", remark)
    report.write_files(folder)
    drawings = report.drawings()
    if config.get("gradcam") and isinstance(engine, Torch):
        from nano_cv.evaluation.gradcam import draw_heatmaps

        drawings["gradcam"] = partial(draw_heatmaps, engine.task, inputs, report)
    for name, draw in drawings.items():
        write_drawing(name, draw, folder, logger.log_file)
    return metrics


def of_test(config: DictConfig, metadata: Metadata, splits: Mapping[str, Resized]) -> Inputs:
    """The test split; for a generator, noise for as many pictures with the same labels."""
    if not len(splits["test"]):
        raise UserError(f"{splits['test'].pictures.root}: no pictures in 'test'; use input=FOLDER")
    if metadata.task != "generation":
        return splits["test"]
    from nano_cv.data.imagined import Imagined

    judge = shared_weights(config.paths.weights, config.model.judge, config.data.name)
    options = (metadata.classes, metadata.image_size, config.seed, splits, judge)
    return Imagined(splits["test"].pictures.targets, *options)


def limit_count(count: int, batch_size: int, limit: float) -> int:
    """Number of pictures that `limit` leaves: a float is a share, an integer counts batches."""
    return min(count, limit_batches(-(-count // batch_size), limit) * batch_size)


def limit_batches(batches: int, limit: float) -> int:
    """Number of batches that `limit` leaves, counted as Lightning does it."""
    return min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))


def write_metrics(path: Path, metrics: Mapping[str, float]) -> Path:
    """Write metrics by name as JSON; numbers that are not finite become null."""
    known = {name: value if isfinite(value) else None for name, value in metrics.items()}
    write_whole(path, json.dumps(known, indent=1) + "\n")
    return path
