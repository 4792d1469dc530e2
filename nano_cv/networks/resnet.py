"""ResNet with configurable depth and width (He et al. 2015, "Deep residual learning").

Shapes: B pictures, H height, W width, K classes.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from nano_cv.metadata import Size
from nano_cv.networks.blocks import Residual, convolution


class ResNet(nn.Module):
    """Classifier with a stem, stages of residual blocks, and a linear layer, for any `image_size`.

    `configs/model/resnet.yaml` explains the options. With an empty `stem`, as for images of 28
    pixels, the first stage sees the pixels themselves. `dropout` is the share of the last features
    dropped in training.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: Size = 128,
        stem: Sequence[int] = (24, 32),
        channels: Sequence[int] = (32, 64, 128, 192),
        blocks: Sequence[int] = (1, 1, 1, 1),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(channels) != len(blocks):
            raise ValueError(f"{len(channels)} stages of channels and {len(blocks)} of blocks")
        layers: list[nn.Module] = []
        width = 3
        for outputs in stem:
            layers.append(convolution(width, outputs, stride=2))
            width = outputs
        for stage, (outputs, count) in enumerate(zip(channels, blocks, strict=True)):
            for block in range(count):
                halves = stage > 0 and block == 0
                layers.append(Residual(width, outputs, stride=2 if halves else 1))
                width = outputs
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised images `[B, 3, H, W]` into logits `[B, K]`."""
        features = self.features(images).mean(dim=(2, 3))
        return self.classifier(self.dropout(features))
