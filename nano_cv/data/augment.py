"""Random changes to a whole batch at once, each picture with its own, where the model trains.

One affine resampling does mirror, turn, zoom and shift together: a picture is interpolated once.

Shapes: B pictures, H height, W width.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample


class Augment(nn.Module):
    """Geometry and colour; every option at 0 (or a scale of 1) leaves the pictures as they are.

    Args:
        flip: chance of a mirror image.
        degrees: turn by up to so much in either direction.
        scale: zoom between these factors.
        translate: shift by up to this share of the side.
        brightness: scale pixels by 1 - b to 1 + b.
        contrast: scale the distance from the picture's mean grey likewise.
        saturation: scale the distance from the pixel's own grey likewise.
    """

    def __init__(
        self,
        flip: float = 0.5,
        degrees: float = 0.0,
        scale: Sequence[float] = (1.0, 1.0),
        translate: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
    ) -> None:
        super().__init__()
        self.flip, self.degrees, self.scale, self.translate = flip, degrees, scale, translate
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def forward(self, images: Tensor) -> Tensor:
        """uint8 `[B, 3, H, W]` to float32 in 0..255, same shape; random numbers are torch's."""
        grid = affine_grid(self._matrices(len(images)), list(images.shape), align_corners=False)
        pictures = grid_sample(
            images.float(), grid.to(images.device), padding_mode="reflection", align_corners=False
        )
        return self._colours(pictures)

    def _matrices(self, count: int) -> Tensor:
        """Output to input coordinates, `[B, 2, 3]`."""
        angle = uniform(count, -self.degrees, self.degrees) * (math.pi / 180)
        zoom = 1 / uniform(count, *self.scale)
        mirror = 1 - 2 * (torch.rand(count) < self.flip).float()
        cosine, sine = angle.cos() * zoom, angle.sin() * zoom
        shift = uniform(2 * count, -2 * self.translate, 2 * self.translate).view(2, count)
        rows = [cosine * mirror, -sine, shift[0], sine * mirror, cosine, shift[1]]
        return torch.stack(rows, dim=1).view(count, 2, 3)

    def _colours(self, images: Tensor) -> Tensor:
        def factor(span: float) -> Tensor:
            return uniform(len(images), 1 - span, 1 + span).view(-1, 1, 1, 1).to(images.device)

        brightness, contrast, saturation = map(
            factor, (self.brightness, self.contrast, self.saturation)
        )
        # Rec. 601 luma; blending towards it is linear, so all three changes are one expression:
        # out = brightness * (mean + contrast * (grey + saturation * (x - grey) - mean))
        weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        grey = (images * weights).sum(dim=1, keepdim=True)
        mean = grey.mean(dim=(2, 3), keepdim=True)
        offset = brightness * (contrast * (1 - saturation) * grey + (1 - contrast) * mean)
        return torch.addcmul(offset, images, brightness * contrast * saturation).clamp_(0, 255)


def uniform(count: int, low: float, high: float) -> Tensor:
    """`count` random numbers between `low` and `high`."""
    return torch.rand(count) * (high - low) + low
