"""Trains any task with Lightning: optimiser, schedule, averaged weights, and logging."""

import math
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from nano_cv.tasks.task import Task


class Learner(pl.LightningModule):
    """The Lightning module around a task; `configs/model/` explains its options.

    `layer_decay` is for networks of timm, whose first layers should change least (Bao et al. 2021,
    "BEiT"). The moving average of the weights is that of Polyak and Juditsky 1992.
    """

    def __init__(
        self,
        task: Task,
        optimizer: Callable[..., Optimizer] = torch.optim.AdamW,
        warmup_epochs: float = 1.0,
        layer_decay: float = 1.0,
        ema_decay: float | None = None,
    ) -> None:
        super().__init__()
        self.task, self.optimizer, self.warmup_epochs = task, optimizer, warmup_epochs
        self.layer_decay, self.ema_decay = layer_decay, ema_decay
        self.validated: list[tuple[Any, dict[str, float], int]] = []  # see `validation_step`
        self.never_predicted: list[str] = []  # classes that the last validation missed
        body = getattr(task.network, "body", None)
        if layer_decay != 1.0 and not hasattr(body, "group_matcher"):
            raise ValueError("layer_decay is for networks of timm; leave it at 1")
        self.steps: int | None = None  # of the whole training, if trainer.minutes has set them

    def on_train_start(self) -> None:
        """Let SIGTERM end a training as Ctrl-C does; in Lightning's way, several processes hang."""
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, signal.default_int_handler)

    def training_step(self, batch: tuple[Tensor, Any], index: int) -> Tensor:
        """Loss of one batch."""
        # Only the highest rate is logged, because all parameter groups follow the same schedule.
        rates = [group["lr"] for group in self.optimizers().param_groups]  # type: ignore[union-attr]
        self.log("lr", max(rates), on_step=True, on_epoch=False)
        losses, pictures = self.task.training_losses(*batch), len(batch[0])
        processes = self.trainer.world_size
        if processes > 1:  # scaled so that the mean over processes is the mean over pictures
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            whole = data.count_in_step(index)
            losses = {name: loss * (pictures * processes / whole) for name, loss in losses.items()}
            pictures = whole
        named = {f"train/{name}": value for name, value in losses.items()}
        self.log_dict(
            named, on_step=True, on_epoch=True, batch_size=pictures, sync_dist=processes > 1
        )
        return losses["loss"]

    def validation_step(self, batch: tuple[Tensor, Any], index: int) -> None:
        """Keep the results of a validation batch, its losses, and its number of pictures."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        losses, evidence = self.task.validate(*batch, data.places(index, len(batch[0])))
        numbers = {name: float(value) for name, value in losses.items()}
        self.validated.append((evidence, numbers, len(batch[0])))

    def on_validation_epoch_end(self) -> None:
        """Log losses and metrics of the whole split, from all processes."""
        validated, self.validated = self.validated, []
        if self.trainer.world_size > 1:
            every: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(every, validated)
            validated = [part for batch in every for part in batch]
        evidence, losses, counts = zip(*validated, strict=True)
        figures = {
            name: sum(own[name] * count for own, count in zip(losses, counts, strict=True))
            / sum(counts)
            for name in losses[0]
        }
        figures |= self.task.figures(evidence)
        self.never_predicted = self.task.never_predicted(evidence)
        self.log_dict({f"val/{name}": value for name, value in figures.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the hash of the data, so that a run is not resumed with other pictures."""
        checkpoint["data_hash"] = self.task.metadata.data_hash
        checkpoint["never_predicted"] = self.never_predicted
        checkpoint["steps"], checkpoint["epochs"] = self.steps, self.trainer.max_epochs
        checkpoint["precision"] = str(self.trainer.precision)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        checkpoint["readers"] = [self.trainer.world_size, data.workers]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the number of epochs and the schedule that `trainer.minutes` has set."""
        self.steps = checkpoint.get("steps")
        if self.steps:
            self.trainer.fit_loop.max_epochs = checkpoint["epochs"]

    def configure_optimizers(self) -> Any:
        """Decay matrices and kernels only; raise the learning rate linearly, then lower it to 0.

        The rate falls along a cosine: Loshchilov and Hutter 2017 (SGDR, AdamW); Goyal et al. 2017
        (warm-up).
        """
        optimizer = self.optimizer(self._parameter_groups())
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)
        planned = float(self.trainer.estimated_stepping_batches)
        warmup = max(1.0, self.warmup_epochs * planned / (self.trainer.max_epochs or 1))

        def factor(step: int) -> float:
            steps = self.steps or planned
            # trainer.minutes may leave a single epoch, which must not be all warm-up.
            rise = min(warmup, steps / 2) if self.steps else warmup
            if step < rise:
                return (step + 1) / (rise + 1)
            return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - rise) / (steps - rise + 1)))

        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        if self.layer_decay != 1.0:
            from timm.optim import param_groups_layer_decay

            body: Any = self.task.network.body
            decay = self.optimizer.keywords["weight_decay"]  # type: ignore[attr-defined]
            return param_groups_layer_decay(body, decay, layer_decay=self.layer_decay)
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [
            {"params": [parameter for parameter in parameters if parameter.ndim > 1]},
            {"params": [parameter for parameter in parameters if parameter.ndim <= 1]}
            | {"weight_decay": 0.0},
        ]

    def configure_callbacks(self) -> list[pl.Callback]:
        """Keep averaged weights, if `ema_decay` is set."""
        if self.ema_decay is None:
            return []
        decay = self.ema_decay

        def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
            if not averaged[0].is_floating_point():  # batch norm's counters
                torch._foreach_copy_(averaged, current)
                return
            # Early averages are over few steps, else they would be mostly random weights.
            steps = int(updates)
            keep = min(decay, (1 + steps) / (10 + steps))
            torch._foreach_lerp_(averaged, current, 1 - keep)

        # Lightning would leave the average on the processor, for it asks before the model moves.
        device = self.trainer.strategy.root_device
        return [WeightAveraging(device=device, multi_avg_fn=average)]
