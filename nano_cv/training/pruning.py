"""A run of a sweep writes down how it does, and stops when it falls behind the others."""

import logging
from pathlib import Path

import pytorch_lightning as pl

from nano_cv.tasks.task import Task
from nano_cv.training import sweep
from nano_cv.training.sweep import Scores

log = logging.getLogger(__name__)


class Race(pl.Callback):
    """Keeps `scores.json` in the folder of the run, and compares it with those of the other runs.

    Args:
        run: the folder of this run.
        folder: of the sweep, with those of all its runs.
        after: epochs that every run may have; None never stops one.
        siblings: other runs that must have come as far.
    """

    def __init__(self, run: Path, folder: Path, after: int | None, siblings: int) -> None:
        self.run, self.folder, self.after, self.siblings = run, folder, after, siblings
        self.values: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """The first process decides for all."""
        assert isinstance(task, Task)
        stop = trainer.is_global_zero and self._behind(trainer, task)
        trainer.should_stop = trainer.strategy.broadcast(stop) or trainer.should_stop

    def _behind(self, trainer: pl.Trainer, task: Task) -> bool:
        self.values.append(float(trainer.callback_metrics[task.monitor]))
        own, epoch = Scores(task.monitor, task.mode, self.values), len(self.values)
        sweep.write(own, self.run)
        if self.after is None or not self.after <= epoch < (trainer.max_epochs or 0):
            return False
        others = [scores for run, scores in sweep.read(self.folder).items() if run != self.run]
        median = sweep.falls_behind(own, others, self.siblings)
        if median is None:
            return False
        sweep.write(own._replace(pruned=True), self.run)
        said = "pruned after epoch %d: %s was %.4f at best, the median of the other runs %.4f"
        log.info(said, epoch, own.metric, own.best, median)
        return True
