"""Metrics, predictions and pictures of a trained model, the same from train.py and infer.py."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from PIL import Image
from pytorch_lightning.loggers import Logger
from torch import Tensor

from nano_cv.data.datamodule import DataModule
from nano_cv.data.pictures import Batches
from nano_cv.drawing import Drawing
from nano_cv.errors import settings_of
from nano_cv.explain import gradcam
from nano_cv.files import replacing
from nano_cv.tasks.task import Task
from nano_cv.tracking import MLflow
from nano_cv.training import quiet

log = logging.getLogger(__name__)


class Collect(pl.Callback):
    """Keeps the predictions of all batches, on the processor."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def on_test_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Keep what `test_step` returned."""
        self.batches.append({name: tensor.cpu() for name, tensor in outputs.items()})

    def on_predict_batch_end(self, *arguments: Any) -> None:
        """Keep what `predict_step` returned."""
        self.on_test_batch_end(*arguments)

    def predictions(self) -> dict[str, Tensor]:
        """All batches as one."""
        return {
            name: torch.cat([batch[name] for batch in self.batches]) for name in self.batches[0]
        }


def evaluate(
    config: DictConfig,
    task: Task,
    data: DataModule,
    batches: Batches,
    folder: Path,
    logger: Logger | None,
) -> dict[str, float]:
    """Predict `batches`, write `predictions.csv` and pictures into `folder`, and log them.

    Returns:
        The metrics, if the pictures have targets. In float32 whatever the training used, so that
        train.py, infer.py and the exported model agree.
    """
    collect = Collect()
    with settings_of("trainer"):
        trainer = pl.Trainer(
            accelerator=config.trainer.accelerator,
            devices=1,
            precision="32-true",
            limit_test_batches=config.trainer.limit_test_batches,
            logger=logger or False,
            **quiet([collect]),
        )
    loader, metrics = data.loader(batches), {}
    if batches.pictures.targets:
        metrics = dict(trainer.test(task, loader, verbose=False)[0])
    else:
        trainer.predict(task, loader, return_predictions=False)
    predictions = collect.predictions()
    count = len(next(iter(predictions.values())))
    names = batches.pictures.names[:count]
    known = batches.pictures.targets
    targets = torch.tensor(known[:count]) if known else None

    def fetch(indices: Sequence[int]) -> Tensor:
        return batches.__getitems__(indices)[0]

    rows = task.table(predictions, targets, names)
    drawings = task.draw(fetch, predictions, targets, names)
    if config.get("gradcam"):
        drawings["gradcam"] = gradcam(task, fetch, predictions, targets, names)
    _write(folder, rows, drawings, logger)
    return metrics


def _write(
    folder: Path, rows: list[dict[str, Any]], drawings: dict[str, Drawing], logger: Logger | None
) -> None:
    table = folder / "predictions.csv"
    with replacing(table) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    for name, drawing in drawings.items():
        with replacing(folder / f"{name}.png") as temporary:
            Image.fromarray(drawing).save(temporary, format="PNG")
        if isinstance(logger, MLflow):
            logger.log_drawing(name, drawing)
    if isinstance(logger, MLflow):
        logger.log_file(table)
