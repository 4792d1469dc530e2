"""Lightning callbacks: log lines, previews, early ends, and resuming."""

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import Logger as LightningLogger
from pytorch_lightning.utilities import rank_zero_only

from nano_cv.errors import UserError
from nano_cv.evaluation import drawing
from nano_cv.evaluation.tracking import Logger
from nano_cv.tasks.task import Task
from nano_cv.training import sweep
from nano_cv.training.learner import Learner
from nano_cv.training.sweep import Scores

log = logging.getLogger(__name__)


class PassOn(LightningLogger):
    """Hands Lightning's log to our own logger, from the first process only."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.logger = logger

    @property
    def name(self) -> str:
        """Asked for by Lightning."""
        return "nano-cv"

    @property
    def version(self) -> str:
        """Asked for by Lightning."""
        return self.logger.run_id

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Logged already, before the training."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Figures of one step."""
        self.logger.log_metrics(metrics, step or 0)


class EpochLine(pl.Callback):
    """Logs one line per epoch: metrics, seconds and time left."""

    def __init__(self) -> None:
        self.started = 0.0

    def on_train_start(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        """Look at the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        """Log the line of this epoch."""
        seconds, self.started = time.monotonic() - self.started, time.monotonic()
        epochs = trainer.max_epochs or 0
        left = (epochs - trainer.current_epoch - 1) * seconds
        metrics = trainer.callback_metrics
        shown = ["train/loss", *sorted(name for name in metrics if name.startswith("val/"))]
        values = "  ".join(f"{key} {metrics[key]:.4f}" for key in shown if key in metrics)
        log.info(
            "epoch %d/%d  %s  %.0f s, %d min %02d s left",
            *(trainer.current_epoch + 1, epochs, values, seconds, left // 60, left % 60),
        )


class GoOn(pl.Callback):
    """Adapts a checkpoint to the folder where the run lies now, and to the patience of now."""

    def on_load_checkpoint(
        self, trainer: pl.Trainer, learner: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Change paths and patience in the checkpoint before Lightning reads them."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = checkpoint["callbacks"].get(callback.state_key)
            if state and isinstance(callback, EarlyStopping):
                state["patience"] = callback.patience
            if state and isinstance(callback, ModelCheckpoint):
                moved = partial(_moved, folder=Path(str(callback.dirpath)))
                state["dirpath"] = callback.dirpath
                for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[key] = moved(state[key])
                state["best_k_models"] = {
                    moved(path): score for path, score in state["best_k_models"].items()
                }


def _moved(path: str, folder: Path) -> str:
    return str(folder / Path(path).name) if path else path


class Diverged(pl.Callback):
    """Ends a training whose loss is not a finite number any more."""

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        """Look at the losses of the epoch; the last step of it is seen by validation only."""
        for name in ("train/loss", "val/loss"):
            loss = trainer.callback_metrics.get(name)
            if loss is not None and not loss.isfinite():
                raise UserError(
                    f"epoch {trainer.current_epoch + 1}: {name} is {loss:.0f}, the training has "
                    "diverged; a smaller model.task.optimizer.lr may help"
                )


class Preview(pl.Callback):
    """Draws pictures from the same noise after each epoch: `previews/epoch_001.png`."""

    def __init__(self, folder: Path, logger: Logger) -> None:
        self.folder, self.logger = folder, logger

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        """Draw; the averaged weights are in place."""
        assert isinstance(learner, Learner)
        name = f"previews/epoch_{trainer.current_epoch + 1:03d}"
        pictures = learner.task.preview()  # type: ignore[operator]
        grid = partial(drawing.grid, pictures, columns=8)
        drawing.keep(name, grid, self.folder, self.logger.log_drawing)


class Race(pl.Callback):
    """Writes `scores.json` of a run, and stops a run that falls behind the others of its sweep.

    Args:
        run: the folder of this run.
        folder: of the sweep, with those of all its runs.
        after: epochs that every run may have; None never stops one.
        siblings: other runs that must have come as far.
    """

    def __init__(self, run: Path, folder: Path, after: int | None, siblings: int) -> None:
        self.run, self.folder, self.after, self.siblings = run, folder, after, siblings
        self.values: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        """The first process decides for all."""
        assert isinstance(learner, Learner)
        stop = trainer.is_global_zero and self._behind(trainer, learner.task)
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
