"""Base class of all tasks: a task normalises pixels, runs a network, and returns named answers.

Shapes: B pictures, H height, W width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nano_cv.metadata import Metadata, height_width

Losses = dict[str, Tensor]  # "loss" is minimised; the log also shows its parts


class Task(nn.Module, ABC):
    """A network, its losses, and the answers that are validated, exported and served.

    A task knows neither Lightning nor files: `nano_cv/training` trains it, and the report of the
    same name in `nano_cv/evaluation` measures its answers.

    Args:
        metadata: classes, image size, normalisation and the like; from the data or a weights file.
        network: makes the network from `num_classes` and `image_size`.
    """

    monitor: str  # the validation metric that chooses the best epoch
    mode: ClassVar[str] = "max"  # "max": a higher metric is better; "min": a lower one
    traced: ClassVar[bool] = False  # exported by tracing, where torch.export would take minutes

    mean: Tensor
    std: Tensor
    class_weights: Tensor | None  # `[K]`, multiply the loss of each class; None: all count alike

    def __init__(self, metadata: Metadata, network: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.metadata = metadata
        self.network = network(num_classes=len(metadata.classes), image_size=metadata.image_size)
        # The layout of decoded pixels, in which convolutions run up to 1.5 times as fast.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Not saved with the weights: a second copy could differ from the one in the metadata.
        for name, values in (("mean", metadata.mean), ("std", metadata.std)):
            statistic = torch.tensor(values).view(1, 3, 1, 1) * 255
            self.register_buffer(name, statistic, persistent=False)
        self.register_buffer("class_weights", None, persistent=False)

    def forward(self, images: Tensor) -> Any:
        """Pixels 0..255, uint8 or float `[B, 3, H, W]`, to the raw output of the network."""
        return self.network((images.float() - self.mean) / self.std)

    # Computes named outputs from the inputs, all `[B, ...]`; this tensor code is exported. Most
    # tasks have one input, images uint8 `[B, 3, H, W]`; see `example_inputs`.
    predict: Callable[..., dict[str, Tensor]]

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """The arguments of `predict` by the names that the exported model gives them."""
        size = height_width(self.metadata.image_size)
        return {"IMAGES": torch.zeros(batch, 3, *size, dtype=torch.uint8)}

    @abstractmethod
    def training_losses(self, images: Tensor, targets: Any) -> Losses:
        """Losses of a training batch: images `[B, 3, H, W]` in 0..255 and their targets."""

    @abstractmethod
    def validate(self, images: Tensor, targets: Any, places: Tensor) -> tuple[Losses, Any]:
        """Losses of a validation batch, and the results that `figures` needs.

        `places` are those of the images in the split, int64 `[B]`.
        """

    def never_predicted(self, validated: Sequence[Any]) -> list[str]:
        """Names of classes that occur in the validation split, but in none of its predictions."""
        return []

    def figures(self, validated: Sequence[Any]) -> dict[str, float]:
        """Metrics of the whole split by name, if any, from the second results of `validate`."""
        return {}
