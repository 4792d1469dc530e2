"""LeNet for colour photographs: a modern form of LeCun et al. 1998, "Gradient-based learning".

Shapes: B pictures, C channels, H height, W width, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nano_cv.metadata import Size, height_width


class LeNet(nn.Module):
    """Blocks of 3x3 convolution, leaky ReLU, 2x2 average pooling, batch norm; then a linear layer.

    `configs/model/lenet.yaml` explains the options.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: Size = 224,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        height, width = (side // 2 ** len(channels) for side in height_width(image_size))
        if min(height, width) < 1:
            raise ValueError(f"{len(channels)} blocks halve {image_size} pixels to nothing")
        inputs = [3, *channels[:-1]]
        self.features = nn.Sequential(*map(_block, inputs, channels))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels[-1] * height * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised images `[B, 3, H, W]` into logits `[B, K]`."""
        features = self.features(images)
        return self.classifier(self.dropout(torch.flatten(features, 1)))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1),
        nn.LeakyReLU(inplace=True),  # saves a third of the memory traffic, the bottleneck here
        nn.AvgPool2d(2),
        nn.BatchNorm2d(outputs),
    )
