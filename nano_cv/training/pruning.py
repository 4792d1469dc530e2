"""Lightning callback that stops a run of a sweep early."""

import logging
from math import nan
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from nano_cv.tasks.task import Task
from nano_cv.training import sweep
from nano_cv.training.sweep import Scores

log = logging.getLogger(__name__)


class PruneBehind(pl.Callback):
    """Writes `scores.json` of a run, and stops a run that falls behind the others of its sweep.

    `folder` is that of the sweep, which holds the folders of all its runs. The run is compared from
    epoch `after` on (None: never), once `siblings` other runs have reached the same epoch.
    """

    def __init__(self, run: Path, folder: Path, after: int | None, siblings: int) -> None:
        self.run, self.folder, self.after, self.siblings = run, folder, after, siblings
        self.values: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Write the score, and let the first process decide for all whether to stop."""
        stop = trainer.is_global_zero and self._behind(trainer, learner.task)
        trainer.should_stop = trainer.strategy.broadcast(stop) or trainer.should_stop

    def _behind(self, trainer: pl.Trainer, task: Task) -> bool:
        value = trainer.callback_metrics.get(task.monitor, nan)  # NaN before the first validation
        self.values.append(float(value))
        own, epoch = Scores(task.monitor, task.mode, self.values), len(self.values)
        sweep.write(own, self.run)
        if self.after is None or not self.after <= epoch < (trainer.max_epochs or 0):
            return False
        others = [scores for run, scores in sweep.read(self.folder).items() if run != self.run]
        median = sweep.falls_behind(own, others, self.siblings)
        if median is None:
            return False
        sweep.write(own._replace(pruned=True), self.run)
        text = "stopped after epoch %d: best %s %.4f, median of the other runs %.4f"
        log.info(text, epoch, own.metric, own.best, median)
        return True
