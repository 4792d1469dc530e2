"""U-Net: an encoder that halves the side level by level, a decoder that climbs back.

Ronneberger et al. 2015, "U-Net"; residual blocks after He et al. 2015; skips are added, not
concatenated, as in Lin et al. 2017 (feature pyramids): half the arithmetic of the decoder.

Shapes: B pictures, C channels, H height, W width, K classes.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate

from nano_cv.networks.blocks import Residual, convolution


class UNet(nn.Module):
    """A logit for each class at each pixel.

    Args:
        num_classes: K.
        image_size: side of the square input in pixels; a multiple of 2 to the number of levels.
        channels: outputs of each level; every level halves the side.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int = 256,
        channels: Sequence[int] = (16, 32, 64, 128, 192),
    ) -> None:
        super().__init__()
        self.body = Body(image_size, channels, stride=2)
        self.classifier = nn.Conv2d(self.body.outputs, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `[B, 3, H, W]` to logits `[B, K, H, W]`."""
        logits = self.classifier(self.body(images))
        return interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)


class Body(nn.Module):
    """Encoder and decoder up to features at 1/`stride` of the side.

    Args:
        image_size: side of the square input in pixels.
        channels: outputs of each level; every level halves the side.
        stride: of the features, a power of 2.
    """

    def __init__(self, image_size: int, channels: Sequence[int], stride: int) -> None:
        super().__init__()
        if image_size % 2 ** len(channels):
            raise ValueError(
                f"image_size={image_size}: {len(channels)} levels need a multiple of "
                f"{2 ** len(channels)}"
            )
        self.first = stride.bit_length() - 2  # the level whose side the decoder climbs back to
        inputs = [3, *channels[:-1]]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                convolution(inputs[level], width, stride=2),
                # At the largest sides a block costs much and sees little.
                *([Residual(width, width)] if level >= 2 else []),
            )
            for level, width in enumerate(channels)
        )
        skips = channels[self.first : -1][::-1]
        self.lateral = nn.ModuleList(
            nn.Conv2d(below, width, kernel_size=1, bias=False)
            for below, width in zip(channels[: self.first : -1], skips, strict=True)
        )
        self.decoder = nn.ModuleList(convolution(width, width) for width in skips)
        self.outputs = channels[self.first]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `[B, 3, H, W]` to features `[B, outputs, H/stride, W/stride]`."""
        levels = []
        features = images
        for block in self.encoder:
            features = block(features)
            levels.append(features)
        features, *skips = levels[self.first :][::-1]
        for lateral, block, skip in zip(self.lateral, self.decoder, skips, strict=True):
            features = block(skip + interpolate(lateral(features), scale_factor=2.0))
        return features
