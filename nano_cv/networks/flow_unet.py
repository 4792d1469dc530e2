"""U-Net that predicts the noise-free image, given a noisy image, its time and its class.

A small network after Ho et al. 2020, "Denoising diffusion probabilistic models": residual blocks
whose group norm is scaled and shifted by time and class (Dhariwal and Nichol 2021), attention at
the lowest resolution. Pixels are first folded 2x2 into channels, which quarters positions and cost.

Shapes: B pictures, C channels, H height, W width, K classes, E width of the embedding.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from nano_cv.metadata import Size, height_width

GROUPS = 8  # of channels that a norm takes together
HEADS = 4  # of the attention
FREQUENCIES = 64  # sines and as many cosines embed the time


class FlowUNet(nn.Module):
    """U-Net that predicts the noise-free image; `configs/model/flow.yaml` explains the options.

    Label K means "any class". The sides in `image_size` are multiples of 2 to the number of levels,
    each of which halves them, the first by folding. `channels` are multiples of `GROUPS`.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: Size = 64,
        channels: Sequence[int] = (48, 96, 160),
        width: int = 192,
    ) -> None:
        super().__init__()
        if any(side % 2 ** len(channels) for side in height_width(image_size)):
            raise ValueError(
                f"image_size={image_size}: {len(channels)} levels need a multiple of "
                f"{2 ** len(channels)}"
            )
        self.time = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.label = nn.Embedding(num_classes + 1, width)
        first, last = channels[0], channels[-1]
        self.enter = nn.Conv2d(12, first, kernel_size=3, padding=1)
        self.down = nn.ModuleList(Block(size, size, width) for size in channels)
        self.shrink = nn.ModuleList(
            nn.Conv2d(shallow, deep, kernel_size=3, stride=2, padding=1)
            for shallow, deep in pairwise(channels)
        )
        self.middle = nn.ModuleList([Attention(last), Block(last, last, width)])
        self.up = nn.ModuleList(Block(2 * size, size, width) for size in channels[::-1])
        self.grow = nn.ModuleList(
            nn.Conv2d(deep, shallow, kernel_size=1) for deep, shallow in pairwise(channels[::-1])
        )
        self.leave = nn.Sequential(
            nn.GroupNorm(GROUPS, first), nn.SiLU(), nn.Conv2d(first, 12, kernel_size=3, padding=1)
        )
        nn.init.zeros_(self.leave[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.leave[-1].bias)  # type: ignore[arg-type]

    def forward(self, pictures: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """Predict from noisy images `[B, 3, H, W]`, times `[B]` in 0..1, and int64 labels `[B]`.

        Returns:
            The noise-free images `[B, 3, H, W]`.
        """
        condition = self.time(waves(times)) + self.label(labels)
        features, skips = self.enter(torch.pixel_unshuffle(pictures, 2)), []
        for level, block in enumerate(self.down):
            features = block(self.shrink[level - 1](features) if level else features, condition)
            skips.append(features)
        attention, block = self.middle
        features = block(attention(features), condition)
        for level, block in enumerate(self.up):
            if level:
                features = interpolate(self.grow[level - 1](features), scale_factor=2.0)
            features = block(torch.cat([features, skips.pop()], dim=1), condition)
        return torch.pixel_shuffle(self.leave(features), 2)


class Block(nn.Module):
    """Residual block whose second group norm is scaled and shifted by time and class."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(GROUPS, inputs)
        self.first = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * outputs))
        self.second_norm = nn.GroupNorm(GROUPS, outputs, affine=False)
        self.second = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1)
        self.shortcut = (
            nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, kernel_size=1)
        )
        self.activation = nn.SiLU()
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Turn features `[B, C, H, W]` and a condition `[B, E]` into `[B, outputs, H, W]`."""
        hidden = self.first(self.activation(self.first_norm(features)))
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = self.activation(self.second_norm(hidden) * (1 + scale) + shift)
        return self.shortcut(features) + self.second(hidden)


class Attention(nn.Module):
    """Self-attention between all positions, with several heads (Vaswani et al. 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.ask = nn.Conv2d(width, 3 * width, kernel_size=1)
        self.answer = nn.Conv2d(width, width, kernel_size=1)
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Turn features `[B, C, H, W]` into features of the same shape."""
        batch, width, height, across = features.shape
        parts = self.ask(self.norm(features)).view(batch, 3, HEADS, width // HEADS, -1)
        query, key, value = parts.transpose(3, 4).unbind(dim=1)
        mixed = scaled_dot_product_attention(query, key, value)
        return features + self.answer(mixed.transpose(2, 3).reshape(batch, width, height, across))


def waves(times: Tensor) -> Tensor:
    """Embed times `[B]` in 0..1 as sines and cosines, `[B, 2 * FREQUENCIES]`."""
    exponents = torch.arange(FREQUENCIES, device=times.device) / FREQUENCIES
    angles = 1000 * times[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
