"""Makes Lightning's Trainer, fits with it, resumes, and restores the best epoch."""

import io
import logging
import math
import re
import sys
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from nano_cv.config.cli import resumable
from nano_cv.config.processes import is_first_process
from nano_cv.data.datamodule import DataModule
from nano_cv.errors import UserError, first_line, listing, one_line, settings_of
from nano_cv.evaluation.tracking import Logger
from nano_cv.files import write_whole
from nano_cv.metadata import Size, height_width
from nano_cv.tasks.task import Task
from nano_cv.training.callbacks import (
    AdaptCheckpoint,
    Bar,
    Diverged,
    Epochs,
    ForwardToLogger,
    KeepBest,
    KeepWithinEpoch,
    Preview,
)
from nano_cv.training.learner import Learner
from nano_cv.training.plan import Plan, TimeBudget
from nano_cv.training.probe import Probe
from nano_cv.training.processor import choose_precision

OUR_KEYS = (  # keys of `config.trainer` that are not Lightning's
    *("_target_", "min_epochs", "min_steps", "minutes", "patience", "prune_after"),
    "prune_siblings",
)
HIDDEN_WARNINGS = (  # warnings of Lightning that are hidden, because here they mean no harm
    ".*LeafSpec.*",  # a torch class that Lightning calls by its old name
    "Checkpoint directory .* exists",  # the run that is resumed
    "Be aware that when using `ckpt_path`",  # patience was set before, and is not set now
    ".*smaller than the logging interval",  # a small data set
    ".*recommended to use `self.log",  # figures are of all processes already
    ".*in eval mode at the start of training",  # frozen stages
    "You're resuming from a checkpoint that ended before the epoch",  # `data/order.py` skips
)
log = logging.getLogger(__name__)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *_: Any, **__: Any) -> None:
        """Write a temporary file beside the checkpoint, then rename it."""
        content = io.BytesIO()  # torch's own writing hides a full disk's OSError
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getbuffer())


def sweep_folder() -> Path | None:
    """Return the folder of the sweep that this run belongs to, or None."""
    config = HydraConfig.get()
    return Path(config.sweep.dir).absolute() if config.mode == RunMode.MULTIRUN else None


def make_trainer(
    config: DictConfig, folder: Path, logger: Logger, task: Task, data: DataModule, plan: Plan
) -> tuple[pl.Trainer, ModelCheckpoint, Epochs]:
    """Make a Trainer that keeps the best and the last epoch in `folder`.

    A run of a sweep stops when the other runs are better. A resumed run keeps its precision.
    Returned are the Trainer, the callback that keeps the best epoch, and the figures of the epochs.

    Raises:
        UserError: the network cannot take the training pictures, or a setting has no meaning here.
    """
    _check_size(task, data)  # before steps are timed
    options = config.trainer
    where: dict[str, Any] = {"dirpath": folder / "checkpoints", "enable_version_counter": False}
    keeper = KeepBest(filename="best", monitor=task.monitor, mode=task.mode, **where)
    # Not `save_last`: that is only written for epochs that were the best so far.
    last = ModelCheckpoint(filename="last", **where)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    within, epochs = KeepWithinEpoch(checkpoint), Epochs(task.monitor, task.mode)
    callbacks: list[pl.Callback] = [keeper, last, within, AdaptCheckpoint(), epochs]
    callbacks.append(TimeBudget(plan, options.minutes))
    if hasattr(task, "preview"):
        callbacks.append(Preview(folder, logger))
    if sweep := sweep_folder():
        from nano_cv.training.pruning import PruneBehind

        callbacks.append(PruneBehind(folder, sweep, options.prune_after, options.prune_siblings))
    else:  # one bad trial must not end a search
        callbacks.append(Diverged())
    if options.patience is not None:
        stop = EarlyStopping(task.monitor, patience=options.patience, mode=task.mode)
        stop.check_finite = False  # NaN is a metric that is unknown, as without any object
        callbacks.append(stop)
    precision = options.precision
    if precision == "auto":
        before = _precision_of(checkpoint) if config.resume else ""
        wanted = options.accelerator
        precision = choose_precision(wanted, task, data.first_batch, before, plan.processes)
    terminal = sys.stderr.isatty() and is_first_process()  # no progress bar in a file
    if terminal:
        callbacks.append(Bar())
    trainer = bare_trainer(
        config,
        plan.epochs,
        precision,
        callbacks=callbacks,
        logger=ForwardToLogger(logger),
        plugins=[WholeCheckpoints()],
        enable_progress_bar=terminal,
        default_root_dir=folder,
        use_distributed_sampler=False,  # `data/order.py` does that
    )
    return trainer, keeper, epochs


def bare_trainer(config: DictConfig, epochs: int, precision: str, **parts: Any) -> pl.Trainer:
    """Make a Trainer from `config.trainer`; `parts` are further arguments of Lightning's.

    Raises:
        UserError: this machine has no such device, or Lightning no such setting.
    """
    options: dict[str, Any] = OmegaConf.to_container(config.trainer, resolve=True)  # type: ignore[assignment]
    for key in OUR_KEYS:
        options.pop(key, None)
    options |= {"max_epochs": epochs, "precision": precision}
    with settings_of("trainer"):
        if SLURMEnvironment.detect():  # its signals end a training as Ctrl-C does, see `cli.py`
            parts["plugins"] = [*parts.get("plugins", []), SLURMEnvironment(auto_requeue=False)]
        return pl.Trainer(**options, enable_model_summary=False, **parts)


def _precision_of(checkpoint: Path) -> str:
    """Return the precision of a checkpoint; empty if unknown, for damage is reported later."""
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return str(state["precision"])
    except Exception:  # damaged files raise errors of many kinds
        return ""


def check_memory(task: Task, batch: int, seen: Size) -> None:
    """Refuse a training that needs more memory than this machine has.

    A lower bound: the weights four times, as AdamW needs them, and what convolutions and linear
    layers hand on, in 16 bits. It is counted on torch's device `meta`, which computes nothing.
    `batch` is the number of pictures per step, and `seen` the size of training pictures.

    Raises:
        UserError: more memory would be needed than there is.
    """
    outputs: dict[nn.Module, int] = {}
    with torch.device("meta"), torch.no_grad():
        copy = deepcopy(task).to("meta").eval()
        for module in copy.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(
                    lambda module, _, output: outputs.update({module: output.numel()})
                )
        try:
            copy.predict(*copy.example_inputs(1).values())
        except Exception as error:  # a network may do what meta cannot: then there is no estimate
            log.debug("no estimate of memory: %s", error)
    own = task.metadata.image_size
    shrunk = math.prod(height_width(seen)) / math.prod(height_width(own))
    needed = sum(parameter.numel() for parameter in task.parameters()) * 16
    needed += int(sum(outputs.values()) * 2 * batch * shrunk)
    memory = psutil.virtual_memory().total
    if torch.cuda.is_available():
        memory = max(memory, torch.cuda.get_device_properties(0).total_memory)
    if needed > memory:
        raise UserError(
            f"model.image_size={own}: a training with {batch} pictures per step "
            f"needs more than {needed / 1e9:,.0f} GB of memory, and this machine has "
            f"{memory / 1e9:,.0f} GB; a smaller model.image_size or data.batch_size needs less"
        )


def fit(trainer: pl.Trainer, learner: Learner, data: DataModule, checkpoint: Path | None) -> None:
    """Train, from `checkpoint` on if there is one.

    Raises:
        UserError: the checkpoint is damaged, or of another network; a process that fetches batches
            was killed.
        KeyboardInterrupt: the training was interrupted; it can be resumed from its last checkpoint.
    """
    task = learner.task
    check_memory(task, min(data.own_batch, len(data.splits["train"])), data.seen_size)
    if checkpoint:
        readers = [trainer.world_size, data.workers] if data.splits["train"].in_shards else []
        epoch, step = _check_resumable(checkpoint, learner, trainer.max_epochs or 0, readers)
        data.first_epoch, data.first_step = epoch, step
        log.info("resuming %s after %d epochs and %d steps", checkpoint.parents[1], epoch, step)
    for message in HIDDEN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    try:
        trainer.fit(learner, data, ckpt_path=checkpoint, weights_only=True)
        stop: Any = trainer.early_stopping_callback
        if stop and stop.stopped_epoch:
            text = "stopped after epoch %d, as %s got no better (trainer.patience=%d)"
            log.info(text, stop.stopped_epoch + 1, stop.monitor, stop.patience)
    except SystemExit as interrupted:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from interrupted
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"data.batch_size={data.batch_size}: model={task.metadata.model} normalises over a "
            "batch, where a single picture of this size leaves one value a channel; two pictures a "
            "step or more are needed: data.batch_size=2"
        ) from error
    except MisconfigurationException as error:  # such as a limit that leaves no batch
        raise UserError(f"trainer: {one_line(error)}") from error
    except RuntimeError as error:
        if re.search("out of memory|can't allocate memory", str(error)):
            raise UserError(
                f"{first_line(error)}; a smaller data.batch_size or model.image_size needs less"
                f"{resumable()}"
            ) from error
        if re.search("[Gg]loo|NCCL|[Cc]onnection (closed|reset) by peer", str(error)):
            raise UserError(
                f"another process of this training has ended, and with it the training{resumable()}"
            ) from error
        if not str(error).startswith(("DataLoader worker", "DataLoader timed out")):
            raise
        raise UserError(
            f"{first_line(error).rstrip('. ')}; memory may be short, or /dev/shm full (in a "
            "container, docker run --shm-size=2g); "
            f"fewer data.workers need less{resumable()}"
        ) from error


def _check_size(task: Task, data: DataModule) -> None:
    """Refuse a `train_size` or `crop` that the network cannot take."""
    size = data.seen_size
    setting = f"data.crop={data.crop}" if data.crop else f"data.train_size={data.train_size}"
    if size == height_width(task.metadata.image_size):
        return
    task.eval()
    try:
        with torch.no_grad():
            task(torch.zeros(1, 3, *size))
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"{setting}: model={task.metadata.model} cannot take pictures of that "
            f"size ({first_line(error)}). A U-Net takes multiples of 32, LeNet and transformers "
            f"only their image_size: {setting.partition('=')[0]}=null"
        ) from error
    task.train()


def _check_resumable(
    checkpoint: Path, learner: Learner, epochs: int, readers: Sequence[int]
) -> tuple[int, int]:
    """Check that a checkpoint can be resumed.

    `readers` are the numbers of processes and of workers, if the order of the pictures depends on
    them. Returns the number of whole epochs that were seen, and of steps in the next.
    """
    state = _load_checkpoint(checkpoint, learner)
    progress = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    step = 0 if progress["is_last_batch"] else int(progress["current"]["ready"])
    seen = int(state["epoch"]) + (step == 0)
    if seen:
        _load_checkpoint(checkpoint.with_name("best.ckpt"), learner)  # is needed at the end
    before = state.get("readers", readers)
    if step and readers and before != readers:
        raise UserError(
            f"{checkpoint}: written within an epoch by {before[0]} processes with data.workers="
            f"{before[1]}, on which the order of shards depends; give the same, or start anew"
        )
    if state.get("steps"):  # a budget in minutes has set the epochs
        epochs = state["epochs"]
    if seen > epochs:
        raise UserError(f"trainer.max_epochs={epochs}: {checkpoint} has seen {seen} epochs already")
    return seen, step


def _load_checkpoint(checkpoint: Path, learner: Learner) -> dict[str, Any]:
    """Load a checkpoint into the learner; returns the checkpoint."""
    anew = "start anew without resume=true"
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        weights, _, _ = state["state_dict"], int(state["epoch"]), state["loops"]["fit_loop"]
    except FileNotFoundError as error:
        raise UserError(f"{checkpoint}: not there any more; {anew}") from error
    except Exception as error:  # damaged files raise errors of many kinds
        raise UserError(f"{checkpoint}: damaged ({first_line(error)[:200]}); {anew}") from error
    try:
        learner.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{checkpoint}: cannot be resumed with these settings ({one_line(error)[:200]}); "
            f"use those of the first run, or {anew}"
        ) from error
    data_hash = learner.task.metadata.data_hash
    if state.get("data_hash", data_hash) != data_hash:
        raise UserError(f"{checkpoint}: learnt from other pictures or labels than these; {anew}")
    return state


def has_diverged(task: Task) -> bool:
    """Return whether weights are no finite numbers."""
    return not all(bool(tensor.isfinite().all()) for tensor in task.state_dict().values())


def restore_best(learner: Learner, keeper: ModelCheckpoint, probe: Probe | None) -> float:
    """Put the weights of the best epoch into the task; returns its validation metric.

    If no epoch was better than the frozen network of `probe`, the frozen network is restored. With
    few validation pictures, both may have all of them right. Classes that the best epoch never
    predicted are named in a warning.

    Raises:
        UserError: no epoch was completed.
    """
    if not keeper.best_model_path:
        raise UserError(
            "trainer: no epoch was trained and validated to its end, so there is nothing to keep; "
            "for a quick try there is experiment=debug"
        )
    best = torch.load(keeper.best_model_path, map_location="cpu", weights_only=True)
    learner.load_state_dict(best["state_dict"])
    task = learner.task
    score = float("nan") if keeper.best_model_score is None else float(keeper.best_model_score)
    score = score if math.isfinite(score) else float("nan")  # Lightning keeps NaN as an infinity
    if probe and not score > probe.score:
        log.info("no epoch was better than the frozen network, which is kept")
        task.load_state_dict(probe.state)
        score = probe.score
    elif missed := best.get("never_predicted"):
        log.warning("val: never predicted: %s", listing(missed))
    if math.isnan(score) and not has_diverged(task):
        text = "%s is unknown, as the validation pictures show no class: the last epoch is kept"
        log.warning(text, task.monitor)
    metrics = {} if math.isnan(score) else {task.monitor: score}
    task.metadata = replace(task.metadata, metrics=metrics)
    return score
