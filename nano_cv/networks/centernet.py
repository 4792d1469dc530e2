"""CenterNet, which finds objects by their centres (Zhou et al. 2019, "Objects as points").

The four distances from a centre to the sides of the box are learnt as in TTFNet (Liu et al. 2020,
"Training-time-friendly network"), which needs a tenth of the epochs.

Shapes: B pictures, H height, W width, K classes.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from nano_cv.metadata import Size
from nano_cv.networks.blocks import convolution
from nano_cv.networks.unet import Body

STRIDE = 4  # pixels of the input between two positions of the output maps


class CenterNet(nn.Module):
    """Detector with a heat map of centres per class, and the distances to the sides of the boxes.

    `width` is the number of channels inside the two heads; `unet.Body` explains the others.
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
        self.load_pretrained = self.body.load_pretrained
        self.centers = self._head(width, num_classes)
        self.distances = self._head(width, 4)
        # An untrained network then predicts 1 % everywhere, not 50 % (Lin et al. 2017, focal loss).
        nn.init.constant_(self.centers[-1].bias, -math.log(99))  # type: ignore[arg-type]

    def _head(self, width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            convolution(self.body.outputs, width), nn.Conv2d(width, outputs, kernel_size=1)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Turn normalised images `[B, 3, H, W]` into two maps at a quarter of the side.

        Returns:
            Logits of centres `[B, K, H/4, W/4]`, and the logarithms of the distances to left, top,
            right and bottom in units of 4 pixels, `[B, 4, H/4, W/4]`.
        """
        features = self.body(images)
        return self.centers(features), self.distances(features)
