"""Lightning callbacks: log lines, curves, previews, early ends, and resuming."""

import logging
import time
from functools import partial
from math import isfinite, nan
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from nano_cv.errors import UserError
from nano_cv.evaluation import drawing
from nano_cv.evaluation.tracking import Logger

CHECKPOINT_SECONDS = 60  # least time between two checkpoints within an epoch
TIMES_WRITING = 50  # and at least 50 times as long as writing one takes
TOLD_EVERY = 20  # steps after which the first process tells the others whether to write
log = logging.getLogger(__name__)


class ForwardToLogger(DummyLogger):
    """Passes Lightning's metrics to our own logger, in the first process only.

    The rest of a logger does nothing, as in Lightning's base class: parameters are logged before.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.logger = logger

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Figures of one step."""
        self.logger.log_metrics(metrics, step or 0)


class Epochs(pl.Callback):
    """Keeps the figures of each epoch, and logs one line per epoch that fits 80 columns.

    `rows` has the figures of each epoch by name, and its number from 1 as `epoch`. They are part of
    the checkpoint, so a resumed training has those of its first epochs.
    """

    def __init__(self, monitor: str, mode: str) -> None:
        self.monitor, self.mode = monitor, mode
        self.rows: list[dict[str, float]] = []
        self.started = 0.0

    @property
    def best(self) -> dict[str, float] | None:
        """The row of the best epoch; of several equal ones, the last, as `KeepBest` keeps it."""
        known = [row for row in reversed(self.rows) if isfinite(row.get(self.monitor, nan))]
        choose = max if self.mode == "max" else min
        return choose(known, key=lambda row: row[self.monitor]) if known else None

    def state_dict(self) -> dict[str, Any]:
        """Put the figures into the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the figures of the epochs before the break from the checkpoint."""
        self.rows = state_dict["rows"]

    def on_train_start(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        """Look at the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        """Keep the figures of this epoch and log its line."""
        seconds, self.started = time.monotonic() - self.started, time.monotonic()
        known = {name: float(value) for name, value in trainer.callback_metrics.items()}
        # Lightning keeps each training loss three times: twice for the epoch, once for the step.
        names = [name for name in known if not name.endswith(("_step", "_epoch"))]
        row = {name: known[name] for name in names if name.startswith(("train/loss", "val/"))}
        row["epoch"] = trainer.current_epoch + 1
        self.rows.append(row)
        epochs = trainer.max_epochs or 0
        left = round((epochs - trainer.current_epoch - 1) * seconds)
        shown = [f"{name} {row[name]:.4f}" for name in ("train/loss", self.monitor) if name in row]
        mark = " best" if row is self.best else ""
        text = "epoch %d/%d  %s%s  %dm%02ds left"
        log.info(text, row["epoch"], epochs, "  ".join(shown), mark, left // 60, left % 60)

    @drawing.chart_style()
    def draw(
        self, best: dict[str, float] | None, frozen: float | None, title: str
    ) -> drawing.Drawing:
        """Draw learning curves: losses on the left, validation metrics on the right.

        A dashed line marks the best epoch, a dotted one the metric of the `frozen` network.
        """
        # Figures of single classes, such as `val/recall/<class>`, are left out: too many lines.
        names = dict.fromkeys(name for row in self.rows for name in row if name.count("/") == 1)
        losses = [name for name in names if "loss" in name]
        parts = [losses, [name for name in names if name not in losses]]
        figure = drawing.make_figure(10, 4.2, title=title)
        for axes, part, name in zip(
            figure.subplots(1, 2), parts, ("losses", "validation metrics"), strict=True
        ):
            for metric in part:
                known = [(row["epoch"], row[metric]) for row in self.rows if metric in row]
                axes.plot(*zip(*known, strict=True), marker=".", label=drawing.shown(metric))
            if best:
                label = f"best epoch: {best['epoch']:.0f}"
                axes.axvline(best["epoch"], color="grey", linestyle="--", label=label, zorder=1)
            if frozen is not None and part is not losses:
                axes.axhline(frozen, color="grey", linestyle=":", label="frozen network", zorder=1)
            axes.set(xlabel="epoch", title=name, xlim=(0.5, len(self.rows) + 0.5))
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        return drawing.render(figure)


class Bar(RichProgressBar):
    """Lightning's progress bar, which counts epochs from 1 as the log does, on one line."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def get_metrics(self, *_: Any) -> dict[str, Any]:
        """Show none: they stand in the line of each epoch, and would wrap here."""
        return {}


class AdaptCheckpoint(pl.Callback):
    """Adapts a checkpoint to the present folder of the run and to the present patience."""

    def on_load_checkpoint(
        self, trainer: pl.Trainer, learner: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Change paths and patience in the checkpoint before Lightning reads them."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = checkpoint["callbacks"].get(callback.state_key)
            if isinstance(callback, KeepBest) and not state:
                text = "epochs were chosen by another metric; start anew"
                raise UserError(f"{callback.dirpath}: {text}")
            if state and isinstance(callback, EarlyStopping):
                state |= {"patience": callback.patience, "stopped_epoch": 0}
            if state and isinstance(callback, ModelCheckpoint):
                folder, best = Path(str(callback.dirpath)), state["best_k_models"]
                state["dirpath"] = callback.dirpath
                for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[key] = state[key] and str(folder / Path(state[key]).name)
                moved = {str(folder / Path(path).name): score for path, score in best.items()}
                state["best_k_models"] = moved


class KeepBest(ModelCheckpoint):
    """Keeps the best epoch; of several equal ones, the last.

    With few validation pictures many epochs are equal, and the last has learnt most.
    """

    @property
    def state_key(self) -> str:
        """The name in checkpoints, that of Lightning's class, which older runs have written."""
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__)

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Return whether the epoch with this metric is kept."""
        best = self.best_model_score
        if current is not None and best is not None:
            unknown = best.isneginf() & current.isnan()  # Lightning keeps NaN as -inf
            if current == best or unknown:
                return True
        return super().check_monitor_top_k(trainer, current)


class KeepWithinEpoch(Checkpoint):
    """Writes a checkpoint every minute within an epoch, for epochs that take long.

    Large checkpoints are written less often, so that writing takes at most 2 % of the time. As a
    `Checkpoint` it is called last, after the averaging of the weights.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.due = time.monotonic() + CHECKPOINT_SECONDS  # also if a run goes on within an epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        """Start the clock."""
        self.due = time.monotonic() + CHECKPOINT_SECONDS

    def on_train_batch_end(
        self, trainer: pl.Trainer, learner: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write if it is time; after the last step, validation comes first."""
        if trainer.world_size > 1 and batch_idx % TOLD_EVERY:
            return
        now = time.monotonic()
        due = now >= self.due and not trainer.is_last_batch
        if trainer.strategy.broadcast(due):  # all processes take part in writing
            trainer.save_checkpoint(self.path, weights_only=False)  # with the optimiser, to resume
            took = time.monotonic() - now
            self.due = now + max(CHECKPOINT_SECONDS, TIMES_WRITING * took)


class Diverged(pl.Callback):
    """Ends a training whose loss is no longer a finite number."""

    def on_train_epoch_end(self, trainer: pl.Trainer, learner: pl.LightningModule) -> None:
        """Check both losses; only the one of validation shows damage by the last step."""
        for name in ("train/loss", "val/loss"):
            loss = trainer.callback_metrics.get(name)
            if loss is not None and not loss.isfinite():
                raise UserError(
                    f"epoch {trainer.current_epoch + 1}: {name} is {loss:.0f}, the training has "
                    "diverged; a smaller model.task.optimizer.lr may help"
                )


class Preview(pl.Callback):
    """Draws generated pictures after each epoch, from the same noise: `previews/epoch_001.png`."""

    def __init__(self, folder: Path, logger: Logger) -> None:
        self.folder, self.logger = folder, logger

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: pl.Trainer, learner: Any) -> None:
        """Draw now, because during validation the network has the averaged weights."""
        name = f"previews/epoch_{trainer.current_epoch + 1:03d}"
        pictures = learner.task.preview()
        enlarged = [drawing.enlarge(picture, 8) for picture in pictures]
        classes = drawing.legible(tuple(learner.task.metadata.classes))
        title = f"epoch {trainer.current_epoch + 1}"
        captions = [classes[number % len(classes)] for number in range(len(pictures))]
        grid = partial(drawing.lay_out, enlarged, 8, captions, title=title)
        drawing.write_drawing(name, grid, self.folder, self.logger.log_file)
