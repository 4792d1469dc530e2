"""Building blocks of the convolutional networks.

Shapes: B pictures, C channels, H height, W width.
"""

from torch import Tensor, nn


class Residual(nn.Module):
    """Two 3x3 convolutions plus a shortcut (He et al. 2015, "Deep residual learning").

    If the shape changes, the shortcut averages pixels before it projects channels (He et al. 2018,
    "Bag of tricks", ResNet-D).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, stride)
        self.second = normed(outputs, outputs, kernel_size=3)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            # `ceil_mode` rounds odd sides up, as the strided convolution does.
            pooled = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
            self.shortcut = nn.Sequential(pooled, normed(inputs, outputs, kernel_size=1))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Turn features `[B, inputs, H, W]` into `[B, outputs, H/stride, W/stride]`."""
        return self.activation(self.shortcut(features) + self.second(self.first(features)))


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with batch norm and ReLU."""
    return nn.Sequential(
        *normed(inputs, outputs, kernel_size=3, stride=stride), nn.ReLU(inplace=True)
    )


def normed(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution with batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )
