"""Measures whether a picture is like the training pictures: part of a classifier's answer.

Shapes: B pictures, F features, D dimensions of the plane, K classes.
"""

import torch
from torch import Tensor, nn


class Familiarity(nn.Module):
    """Measures how unlike the training pictures a picture is.

    The features of the training pictures, scaled to length 1, lie near a plane of few dimensions.
    Pictures of a kind that the network has never seen lie far from this plane (the residual of Wang
    et al. 2022, "ViM: Out-of-distribution with virtual-logit matching"). For networks that show no
    features, the largest logit is used, which is low for unknown pictures (Hendrycks et al. 2022,
    "Scaling out-of-distribution detection for real-world settings").

    Args:
        shape: number of features F and of directions D; None for a network that shows no features.
    """

    center: Tensor | None  # mean of the features `[F]`
    plane: Tensor | None  # orthonormal directions of the plane `[F, D]`
    limit: Tensor  # a scalar; pictures up to this distance count as familiar
    spread: Tensor  # a scalar, the standard deviation of the distances; the unit of the result

    def __init__(self, shape: tuple[int, int] | None) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(shape[0]) if shape else None)
        self.register_buffer("plane", torch.zeros(shape) if shape else None)
        self.register_buffer("limit", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def distance(self, features: Tensor, logits: Tensor) -> Tensor:
        """Distance of features `[B, F]` or, without a plane, of logits `[B, K]`: `[B, 1]`."""
        if self.center is None or self.plane is None:
            return -logits.amax(dim=1, keepdim=True)
        length = features.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-6)
        offset = features / length - self.center
        within = (offset @ self.plane).square().sum(dim=1, keepdim=True)
        return (offset.square().sum(dim=1, keepdim=True) - within).clamp(min=0).sqrt()

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """How far each picture is beyond the limit, `[B, 1]`; above 0 it is foreign."""
        return (self.distance(features, logits) - self.limit) / self.spread
