"""CenterNet: an object is the point at its centre. Zhou et al. 2019, "Objects as points".

The four distances to the sides of the box are learnt as in TTFNet (Liu et al. 2020,
"Training-time-friendly network"), which needs a tenth of the epochs.

Shapes: B pictures, H height, W width, K classes.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from nano_cv.metadata import Size
from nano_cv.networks.blocks import convolution
from nano_cv.networks.unet import Body

STRIDE = 4  # pixels of the input between two places where a centre can be


class CenterNet(nn.Module):
    """A map of centres for each class, and distances from each place to the sides of its box.

    Args:
        num_classes: K.
        image_size: side of the square input in pixels, or height and width; multiples of 2 to the
            number of levels.
        channels: outputs of each level of the U-Net; every level halves the side.
        width: channels of the two heads.
        backbone: name of a network of timm that takes the place of the U-Net's encoder.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: Size = 256,
        channels: Sequence[int] = (16, 32, 64, 128, 192),
        width: int = 64,
        backbone: str | None = None,
    ) -> None:
        super().__init__()
        self.body = Body(image_size, channels, stride=STRIDE, backbone=backbone)
        self.centers = self._head(width, num_classes)
        self.distances = self._head(width, 4)
        # So that a young network claims 1 % everywhere, not 50 % (Lin et al. 2017, focal loss).
        nn.init.constant_(self.centers[-1].bias, -math.log(99))  # type: ignore[arg-type]

    def _head(self, width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            convolution(self.body.outputs, width), nn.Conv2d(width, outputs, kernel_size=1)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images `[B, 3, H, W]` to two maps at a quarter of the side.

        Returns:
            Logits of centres `[B, K, H/4, W/4]`, and the logarithms of the distances to left, top,
            right and bottom in units of 4 pixels, `[B, 4, H/4, W/4]`.
        """
        features = self.body(images)
        return self.centers(features), self.distances(features)

    def load_pretrained(self) -> None:
        """Fill the backbone with weights learnt on ImageNet; see `Body.load_pretrained`."""
        self.body.load_pretrained()
