"""Plans the length of a training: small sets are shown more often than large ones.

A model needs a certain number of optimiser steps. An epoch of 30 pictures has two steps, an epoch
of 60,000 pictures has thousands, so no number of epochs fits both.
"""

import logging
import math
import time
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from nano_cv.data.datamodule import DataModule, leaves_too_few
from nano_cv.errors import UserError
from nano_cv.evaluation.evaluate import limit_batches
from nano_cv.metadata import TAGGING
from nano_cv.training.learner import Learner

MOST_SHOWN = 1000  # times that min_steps may show a picture: more teach a tiny set by heart
LEAST_BATCH = 4  # pictures per step of small sets; batch norm needs several
PACE_FROM, PACE_TO = 3, 12  # steps between which the pace is measured; the first are slower
FEW_PICTURES = 500  # training pictures; with fewer, a pretrained network is much better
PRETRAINED = {
    "classification": "efficientnet_lite0",
    TAGGING: "efficientnet_lite0",
    "detection": "centernet_lite0",
    "segmentation": "unet_lite0",
}
log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """The length of a training."""

    pictures: int  # of the training split
    batch_size: int  # pictures per step, over all processes
    repeats: int  # number of times that each picture is shown per epoch
    epochs: int
    steps: int  # per epoch
    processes: int = 1  # that share each step


def make_plan(
    config: DictConfig, pictures: int, processes: int = 1, validation: int | None = None
) -> Plan:
    """Plan the training of so many pictures, and validation pictures, for so many processes.

    With `trainer.max_epochs=N` there are N epochs, and each shows every picture once. Otherwise the
    model sets the fewest epochs and steps: a small set is shown several times per epoch, and in
    more epochs if need be, `MOST_SHOWN` times at most. A set of less than two batches gets smaller
    batches.

    Raises:
        UserError: the pictures, or those of a batch, cannot be divided among the processes.
    """
    batch, options = config.data.batch_size, config.trainer
    if batch % processes:
        raise UserError(
            f"data.batch_size={batch}: is for all {processes} processes together, so a multiple of "
            f"{processes} is needed, such as {-(-batch // processes) * processes}"
        )
    for kind, count in (("training", pictures), ("validation", validation)):
        if count is not None and count < processes:
            raise UserError(
                f"{count} {kind} pictures are too few for {processes} processes, which need one "
                "each in every step; trainer.devices=1"
            )
    # With a single batch per epoch, the schedule and batch norm would see too few steps.
    if pictures < 2 * batch:
        batch = min(batch, max(LEAST_BATCH, pictures // 8))
        batch = max(batch // processes, 1) * processes
    epochs = options.max_epochs or options.min_epochs
    least = 0 if options.max_epochs else min(options.min_steps, MOST_SHOWN * pictures // batch)
    # Repeats are rounded down; further epochs below make up for the missing steps.
    repeats = max(1, int(least * batch / (pictures * epochs)))
    seen = pictures * repeats
    steps = -(-seen // batch) - leaves_too_few(seen, batch, processes)
    epochs = max(epochs, math.ceil(least / max(1, steps)))
    steps = limit_batches(steps, options.limit_train_batches)
    return Plan(pictures, batch, repeats, epochs, steps, processes)


def apply_plan(
    plan: Plan, data: DataModule, learner: Learner, trainer: pl.Trainer, pretrained: bool
) -> None:
    """Prepare the data for the plan, and log the plan in one line."""
    if plan.batch_size != data.batch_size:
        text = "data.batch_size=%d is %d here, for there are only %d training pictures"
        log.info(text, data.batch_size, plan.batch_size, plan.pictures)
    data.batch_size, data.repeats = plan.batch_size, plan.repeats
    parameters = sum(parameter.numel() for parameter in learner.parameters())
    times = f" ({plan.repeats} times each per epoch)" if plan.repeats > 1 else ""
    shared = f" (over {plan.processes} processes)" if plan.processes > 1 else ""
    log.info(
        "%s: %s training pictures%s, batch %d%s, %d epoch%s of %d step%s, %s in all; "
        "%s parameters, precision %s",
        *(learner.task.metadata.name, f"{plan.pictures:,}", times, plan.batch_size, shared),
        *(plan.epochs, "s" * (plan.epochs > 1)),
        *(plan.steps, "s" * (plan.steps > 1), f"{plan.epochs * plan.steps:,}"),
        *(f"{parameters:,}", trainer.precision),
    )
    on_gpu = trainer.strategy.root_device.type == "cuda"
    if on_gpu and 1 == plan.processes < (devices := torch.cuda.device_count()):
        log.info("1 of %d GPUs is used; for all of them: trainer.devices=%d", devices, devices)
    better = PRETRAINED.get(learner.task.metadata.task)
    if better and plan.pictures < FEW_PICTURES and not pretrained:
        text = "few pictures to learn from: model=%s starts from ImageNet's weights and needs fewer"
        log.info(text, better)


class TimeBudget(pl.Callback):
    """Times the first steps, logs how long the training will take, and fits it into `minutes`."""

    def __init__(self, plan: Plan, minutes: float | None) -> None:
        self.plan, self.minutes, self.steps = plan, minutes, 0
        self.begun = self.measured = 0.0

    def on_train_start(self, trainer: pl.Trainer, learner: Any) -> None:
        """Start the clock."""
        self.begun = time.monotonic()
        if learner.steps:  # a checkpoint has the epochs of the budget
            self.minutes = None

    def on_train_batch_end(self, trainer: pl.Trainer, learner: Any, *_: Any) -> None:
        """Read the clock after the steps `PACE_FROM` and `PACE_TO`."""
        self.steps += 1
        if self.steps == PACE_FROM:
            self.measured = time.monotonic()
        elif self.steps == PACE_TO:
            pace = (time.monotonic() - self.measured) / (PACE_TO - PACE_FROM)
            self._say(trainer, learner, pace)

    def _say(self, trainer: pl.Trainer, learner: Any, pace: float) -> None:
        validated: Any = trainer.num_val_batches
        # Without gradients a batch takes about a third of the time.
        epoch = self.plan.steps * pace + sum(map(int, validated)) * pace / 3
        epochs = (trainer.max_epochs or 1) - trainer.current_epoch
        if self.minutes:
            left = self.minutes * 60 - (time.monotonic() - self.begun)
            # The first process decides for all.
            epochs = trainer.strategy.broadcast(max(1, int(left / epoch)))
            trainer.fit_loop.max_epochs = trainer.current_epoch + epochs
            steps = math.ceil(self.plan.steps / trainer.accumulate_grad_batches)  # of the optimiser
            learner.steps = (trainer.current_epoch + epochs) * steps
            if epoch > left:
                log.warning("minutes=%g: one epoch takes longer than that", self.minutes)
        if self.minutes or epochs * epoch > 20:
            log.info("%d epoch%s: about %s", epochs, "s" * (epochs > 1), duration(epochs * epoch))


def duration(seconds: float) -> str:
    """As a person says it: `40 s`, `7 min`, `2 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
