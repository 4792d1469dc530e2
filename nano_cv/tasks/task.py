"""What all tasks share: normalisation, optimiser, schedule and averaged weights.

Shapes: B pictures, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from nano_cv.metadata import Metadata


class Task(pl.LightningModule):
    """A network that can be trained, evaluated and exported.

    What its predictions are worth is said in `nano_cv/reports`, by the module of the same name.

    Args:
        metadata: what the model promises; made from the data, or read from a weights file.
        network: makes the network from `num_classes` and `image_size`.
        optimizer: makes the optimiser from parameter groups.
        warmup_epochs: length of the linear rise to the full learning rate.
        layer_decay: times the learning rate with each layer away from the classifier, for networks
            of timm: what was learnt elsewhere changes least (Bao et al. 2021, "BEiT").
        ema_decay: of the exponential moving average of the weights, which is what gets validated,
            tested and saved (Polyak and Juditsky 1992); None trains without.
    """

    monitor: ClassVar[str]  # the validation metric that chooses the best epoch,
    mode: ClassVar[str] = "max"  # and whether more of it is better, or less: "min"
    traced: ClassVar[bool] = False  # exported by tracing, where torch.export would take minutes

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        metadata: Metadata,
        network: Callable[..., nn.Module],
        optimizer: Callable[..., Optimizer] = torch.optim.AdamW,
        warmup_epochs: float = 1.0,
        layer_decay: float = 1.0,
        ema_decay: float | None = None,
    ) -> None:
        super().__init__()
        self.metadata = metadata
        self.optimizer = optimizer
        self.warmup_epochs = warmup_epochs
        self.layer_decay = layer_decay
        self.ema_decay = ema_decay
        self.network = network(num_classes=len(metadata.classes), image_size=metadata.image_size)
        # Pixels lie as they were decoded, and convolutions run up to 1.5 times as fast.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Pixels are 0..255. The metadata holds these; a second copy in the weights could disagree.
        for name, values in (("mean", metadata.mean), ("std", metadata.std)):
            statistic = torch.tensor(values).view(1, 3, 1, 1) * 255
            self.register_buffer(name, statistic, persistent=False)

    def forward(self, images: Tensor) -> Any:
        """Pixels 0..255, uint8 or float `[B, 3, H, W]`, to the raw output of the network."""
        return self.network((images.float() - self.mean) / self.std)

    # Inputs to named outputs, all `[B, ...]`: pure tensor code, and what is exported. Most tasks
    # take one input, images uint8 `[B, 3, H, W]`; see `example_inputs`.
    predict: Callable[..., dict[str, Tensor]]

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """The arguments of `predict` by the names that the exported model gives them."""
        size = self.metadata.image_size
        return {"IMAGES": torch.zeros(batch, 3, size, size, dtype=torch.uint8)}

    def log_losses(self, split: str, losses: dict[str, Tensor], batch: int) -> Tensor:
        """Log the loss and its parts for one batch of pictures; returns the loss."""
        named = {f"{split}/{name}": value for name, value in losses.items()}
        self.log_dict(named, on_step=split == "train", on_epoch=True, batch_size=batch)
        return losses["loss"]

    def on_validation_epoch_start(self) -> None:
        """Begin to collect, in `validated`, what the metrics of the split are made of."""
        self.validated: list[Any] = []

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole split, those of `figures`."""
        parts = self.validated
        if self.trainer.world_size > 1:
            every: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(every, parts)
            parts = [part for some in every for part in some]
        self.log_dict({f"val/{name}": value for name, value in self.figures(parts).items()})

    def figures(self, validated: Sequence[Any]) -> dict[str, float]:
        """Metrics by name, as the report of the task defines them; a task may have none."""
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """So that a run does not go on with other pictures; see `training.fit`."""
        checkpoint["data_hash"] = self.metadata.data_hash

    def configure_optimizers(self) -> Any:
        """Weight decay for matrices and kernels only; linear warm-up, then cosine to zero.

        Loshchilov and Hutter 2017 (SGDR, AdamW); Goyal et al. 2017 (warm-up).
        """
        optimizer = self.optimizer(self._parameter_groups())
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)
        steps = float(self.trainer.estimated_stepping_batches)
        epochs = self.trainer.max_epochs or 1
        warmup = max(1.0, self.warmup_epochs * steps / epochs)

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warmup) / (steps - warmup + 1)))

        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        if self.layer_decay != 1.0:
            from timm.optim import param_groups_layer_decay

            body: Any = self.network.body
            if not hasattr(body, "group_matcher"):
                raise ValueError("layer_decay is for networks of timm; leave it at 1")
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

        def average(averaged: Tensor, current: Tensor, updates: Tensor) -> Tensor:
            # The average of a young model is short, else it would remember the random start.
            keep = torch.clamp((1 + updates) / (10 + updates), max=decay)
            return averaged * keep + current * (1 - keep)

        return [WeightAveraging(avg_fn=average)]
