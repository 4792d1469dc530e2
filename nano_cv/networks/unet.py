"""U-Net: an encoder that halves the side at each level, and a decoder that doubles it again.

Ronneberger et al. 2015, "U-Net"; residual blocks after He et al. 2015; skips are added, not
concatenated, as in Lin et al. 2017 (feature pyramids): half the arithmetic of the decoder.

Shapes: B pictures, C channels, H height, W width, K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nano_cv.errors import UserError
from nano_cv.metadata import Size, height_width
from nano_cv.networks.blocks import Residual, convolution, normed


class UNet(nn.Module):
    """U-Net that predicts a logit for each class at each pixel; `Body` explains the arguments."""

    def __init__(
        self,
        num_classes: int,
        image_size: Size = 256,
        channels: Sequence[int] = (16, 32, 64, 96, 144),
        backbone: str | None = None,
    ) -> None:
        super().__init__()
        self.body = Body(image_size, channels, stride=2, backbone=backbone)
        self.load_pretrained = self.body.load_pretrained
        self.classifier = nn.Conv2d(self.body.outputs, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised images `[B, 3, H, W]` into logits `[B, K, H, W]`."""
        logits = self.classifier(self.body(images))
        scale = float(self.body.stride)
        return interpolate(logits, scale_factor=scale, mode="bilinear", align_corners=False)


class Body(nn.Module):
    """Encoder and decoder of a U-Net, which end at features at 1/`stride` of the side.

    Args:
        image_size: side of the square input in pixels, or height and width; multiples of
            2^(number of levels).
        channels: output channels of each level; every level halves the side.
        stride: pixels per position of the features, a power of 2; if the first level of a backbone
            is coarser, the stride of that level.
        backbone: name of a network of timm for the encoder; then `channels` are not used.
    """

    def __init__(
        self, image_size: Size, channels: Sequence[int], stride: int, backbone: str | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        strides = [2 ** (level + 1) for level in range(len(channels))]
        self.encoder: Any
        if backbone:
            import timm  # imported late, as the import takes two seconds

            from nano_cv.networks.pretrained import check_name

            check_name(backbone, "backbone")
            self.encoder = timm.create_model(backbone, features_only=True)
            channels = self.encoder.feature_info.channels()
            strides = self.encoder.feature_info.reduction()
        else:
            self.encoder = Levels(channels)
        if any(side % strides[-1] for side in height_width(image_size)):
            raise ValueError(
                f"image_size={image_size}: {len(channels)} levels need a multiple of {strides[-1]}"
            )
        if strides[-1] < stride:
            raise ValueError(f"channels={list(channels)}: too few levels for a stride of {stride}")
        # Index of the level at whose resolution the decoder ends.
        self.first = next(level for level, reached in enumerate(strides) if reached >= stride)
        self.stride = strides[self.first]
        skips = channels[self.first : -1][::-1]
        self.context = Context(channels[-1])
        self.lateral = nn.ModuleList(
            nn.Conv2d(below, width, kernel_size=1, bias=False)
            for below, width in zip(channels[: self.first : -1], skips, strict=True)
        )
        self.decoder = nn.ModuleList(convolution(width, width) for width in skips)
        self.outputs = channels[self.first]

    def forward(self, images: Tensor) -> Tensor:
        """Turn normalised images `[B, 3, H, W]` into `[B, outputs, H/stride, W/stride]`."""
        features, *skips = self.encoder(images)[self.first :][::-1]
        features = self.context(features)
        for lateral, block, skip in zip(self.lateral, self.decoder, skips, strict=True):
            features = block(skip + interpolate(lateral(features), scale_factor=2.0))
        return features

    def load_pretrained(self) -> None:
        """Fill the backbone with weights learnt on ImageNet.

        Raises:
            UserError: there is no backbone, or its weights cannot be had.
        """
        from nano_cv.networks.pretrained import LITE0, fill_encoder, imagenet_weights

        if not self.backbone:
            raise UserError(
                "model.pretrained=imagenet: only networks of timm have ImageNet's weights; name "
                f"one, for example model.task.network.backbone={LITE0}"
            )
        fill_encoder(self.encoder, imagenet_weights(self.backbone))


class Context(nn.Module):
    """Adds to each place of the coarsest level what lies up to 6 places away.

    Convolutions alone see too little of an object that fills the picture. The windows are those of
    spatial pyramid pooling (He et al. 2014), taken one after the other as in YOLOv5.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(1, channels // 4)
        self.reduce = normed(channels, width, kernel_size=1)
        self.pool = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)
        self.expand = nn.Conv2d(4 * width, channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Turn features `[B, C, H, W]` into features of the same shape."""
        maxima = [self.reduce(features).relu()]
        for _ in range(3):
            maxima.append(self.pool(maxima[-1]))
        return features + self.expand(torch.cat(maxima, dim=1))


class Levels(nn.ModuleList):
    """Encoder of residual blocks; each level halves the side and has its number of `channels`."""

    def __init__(self, channels: Sequence[int]) -> None:
        inputs = [3, *channels[:-1]]
        super().__init__(
            nn.Sequential(
                convolution(inputs[level], width, stride=2),
                # At the highest resolutions a block costs much and adds little context.
                *([Residual(width, width)] if level >= 2 else []),
            )
            for level, width in enumerate(channels)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Turn normalised images `[B, 3, H, W]` into the features of each level."""
        levels = []
        for block in self:
            images = block(images)
            levels.append(images)
        return levels
