"""Augmentation: random changes to the images of a batch, on the device where the model trains.

A single affine resampling does mirror, turn, zoom and shift together, so an image is interpolated
only once. Boxes and masks are moved by the same transform.

Shapes: B images, H height, W width, M boxes at most.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms import v2

from nano_cv.data.images import GREY
from nano_cv.data.order import Draw
from nano_cv.data.targets import NO_LABEL, Boxes
from nano_cv.errors import UserError
from nano_cv.metadata import Size, height_width

POLICIES = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment}
MIN_VISIBLE = 0.3  # share of a box that must stay in the image for its object to be learnt


class Augment(nn.Module):
    """Changes of geometry and colour; an option at 0 (or a scale of 1) changes nothing.

    `configs/data/flowers.yaml` explains the options. Images with boxes, which must stay upright,
    and images at `strength` 0 are turned by whole quarters within `degrees`. `strength` does not
    change flip, degrees and policy; the data module chooses a `flip` of None. Shifts are by whole
    pixels if nothing turns or zooms, so that small images stay sharp. `brightness` b scales pixels
    by a factor of 1 - b to 1 + b, `contrast` the distance from the image's mean grey, `saturation`
    that from the pixel's own grey. A `policy` (Müller and Hutter 2021, TrivialAugment; Cubuk et al.
    2020, RandAugment) makes one or two strong changes to each image before all others.
    """

    def __init__(
        self,
        flip: float | None = 0.5,
        degrees: float = 0.0,
        scale: Sequence[float] = (1.0, 1.0),
        translate: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        policy: str | None = None,
        strength: float = 1.0,
    ) -> None:
        super().__init__()
        self.flip, self.degrees, self.strength = flip, degrees, strength
        self.scale = [1 + strength * (factor - 1) for factor in scale]
        self.translate = strength * translate
        self.brightness, self.contrast = strength * brightness, strength * contrast
        self.saturation = strength * saturation
        self.policy = POLICIES[policy](fill=GREY) if policy else None

    def forward(
        self,
        images: Tensor,
        targets: Any = None,
        size: Size | None = None,
        crop: Size | None = None,
        draw: Draw | None = None,
    ) -> tuple[Tensor, Any]:
        """Change images, and move their boxes and masks along.

        Args:
            images: uint8 `[B, 3, H, W]`.
            targets: `Boxes` of `[B, M, 4]`, masks uint8 `[B, H, W]`, or other targets, which stay
                as they are.
            size: size of a whole image in the output, in pixels; at least half of H and W, because
                the resampling does not smooth. None: the size of `images`.
            crop: size of the random part of the image that is returned. None: the whole image.
            draw: source of random numbers, for a batch that several processes share.

        Returns:
            float32 images in 0..255, and the targets. Random numbers are torch's.
        """
        whole = height_width(size or images.shape[2:])
        height, width = height_width(crop or whole)
        boxes = targets if isinstance(targets, Boxes) else None
        masks = targets if isinstance(targets, Tensor) and targets.ndim == 3 else None
        if self.policy:
            if boxes is not None or masks is not None:
                raise UserError("data.augment.policy: for classification only; leave it at null")
            images = torch.stack([self.policy(image) for image in images])
        draw = draw or Draw(len(images))
        matrices = self._matrices(draw, whole, (height, width), upright=boxes is not None)
        shape = [len(images), 3, height, width]
        grid = affine_grid(matrices, shape, align_corners=False).to(images.device)
        if boxes is None:
            moved = _sample(images.float(), grid)
        else:  # grey margins, because mirrored margins would show objects that have no box
            moved = _sample(images.float() - GREY, grid, padding_mode="zeros") + GREY
            targets = _move_boxes(boxes, matrices, images.shape[2:], (height, width))
        if masks is not None:
            targets = _sample(masks[:, None].float(), grid, mode="nearest")[:, 0].to(masks.dtype)
        return self._colours(moved, draw), targets

    def _matrices(
        self, draw: Draw, whole: tuple[int, int], part: tuple[int, int], upright: bool
    ) -> Tensor:
        """Draw affine matrices `[B, 2, 3]` from output to input coordinates, both in -1..1.

        `whole` and `part` are height and width, in pixels, of a whole image and of the part that is
        cut out; `upright` images are turned by whole quarters only.
        """
        (degrees,) = draw.uniform(-self.degrees, self.degrees)
        if upright or not self.strength:
            degrees = (degrees / 90).round() * 90
        angle = degrees * (math.pi / 180)
        (zoom,) = 1 / draw.uniform(self.scale[0], self.scale[1])
        share = 0.5 if self.flip is None else self.flip
        mirror = 1 - 2 * (draw.uniform(0, 1)[0] < share).float()
        cosine, sine = angle.cos() * zoom, angle.sin() * zoom
        shift = draw.uniform(-2 * self.translate, 2 * self.translate, rows=2)
        if not self.degrees and self.scale == [1, 1]:
            sides = torch.tensor(whole[::-1]).view(2, 1)
            shift = (shift * sides / 2).round() * 2 / sides
        height, width = whole
        if part != whole:
            room = torch.tensor([1 - part[1] / width, 1 - part[0] / height]).view(2, 1)
            shift = shift + draw.uniform(-1, 1, rows=2) * room
        # The factors of both sides make a turn keep its shape if height and width differ.
        rows = [
            *(cosine * mirror * (part[1] / width), -sine * (part[0] / width), shift[0]),
            *(sine * mirror * (part[1] / height), cosine * (part[0] / height), shift[1]),
        ]
        return torch.stack(rows, dim=1).view(-1, 2, 3)

    def _colours(self, images: Tensor, draw: Draw) -> Tensor:
        def factor(span: float) -> Tensor:
            return draw.uniform(1 - span, 1 + span).view(-1, 1, 1, 1).to(images.device)

        brightness, contrast, saturation = map(
            factor, (self.brightness, self.contrast, self.saturation)
        )
        # Rec. 601 luma. Blending towards grey is linear, so all three changes are an expression:
        # out = brightness * (mean + contrast * (grey + saturation * (x - grey) - mean))
        weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        grey = (images * weights).sum(dim=1, keepdim=True)
        mean = grey.mean(dim=(2, 3), keepdim=True)
        offset = brightness * (contrast * (1 - saturation) * grey + (1 - contrast) * mean)
        return torch.addcmul(offset, images, brightness * contrast * saturation).clamp_(0, 255)


def _sample(pixels: Tensor, grid: Tensor, **options: str) -> Tensor:
    return grid_sample(
        pixels, grid, align_corners=False, **{"padding_mode": "reflection", **options}
    )


def _move_boxes(
    targets: Boxes, matrices: Tensor, inputs: Sequence[int], outputs: Sequence[int]
) -> Boxes:
    """Move boxes; boxes that have left the image lose their label. Sizes are height and width."""
    boxes, labels, ignored, _ = targets
    before, after = (boxes.new_tensor(size[::-1]) for size in (inputs, outputs))
    corners = torch.stack([boxes[..., :2], boxes[..., 2:]], dim=2) * (2 / before) - 1
    # The matrices map output to input. They are inverted on the CPU, as some accelerators cannot.
    back = torch.linalg.inv(matrices[:, :, :2]).to(boxes.device)
    shift = matrices[:, None, None, :, 2].to(boxes.device)
    corners = torch.einsum("bij,bmcj->bmci", back, corners - shift)
    ends = after.repeat(2)
    moved = torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=2).add(1).mul(ends / 2)
    inside = moved.clamp(min=0).minimum(ends)
    seen = _areas(inside) > MIN_VISIBLE * _areas(moved)
    return Boxes(inside, torch.where(seen, labels, NO_LABEL), ignored)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
