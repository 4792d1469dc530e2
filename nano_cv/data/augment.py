"""Random changes to a whole batch at once, each picture with its own, where the model trains.

One affine resampling does mirror, turn, zoom and shift together: a picture is interpolated once,
and boxes and masks move along.

Shapes: B pictures, H height, W width, M boxes at most.
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
from nano_cv.data.pictures import NO_LABEL, Boxes
from nano_cv.errors import UserError
from nano_cv.metadata import Size, height_width

POLICIES = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment}
VISIBLE = 0.3  # share of a box that must stay in the picture for its object to be learnt


class Augment(nn.Module):
    """Geometry and colour; every option at 0 (or a scale of 1) leaves the pictures as they are.

    Args:
        flip: chance of a mirror image.
        degrees: turn by up to so much in either direction; boxes, which must stay upright, and
            pictures at `strength` 0 are turned by whole quarters within that.
        scale: zoom between these factors.
        translate: shift by up to this share of the side; by whole pixels if nothing turns or zooms,
            so that small pictures stay sharp.
        brightness: scale pixels by 1 - b to 1 + b.
        contrast: scale the distance from the picture's mean grey likewise.
        saturation: scale the distance from the pixel's own grey likewise.
        policy: `trivial` (Müller and Hutter 2021, TrivialAugment) or `rand` (Cubuk et al. 2020,
            RandAugment): one or two strong changes to each picture before all others; only for
            pictures whose target has no place in them.
        strength: of all but mirror, turn and policy: 1 as given above; 0 leaves only what gives a
            picture that a camera could have taken, pixel for pixel.
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
        policy: str | None = None,
        strength: float = 1.0,
    ) -> None:
        super().__init__()
        if len(scale) != 2 or scale[0] > scale[1]:
            raise ValueError(f"scale={list(scale)}: needed are two factors, the smaller one first")
        self.flip, self.degrees, self.strength = flip, degrees, strength
        self.scale = [1 + strength * (factor - 1) for factor in scale]
        self.translate = strength * translate
        self.brightness, self.contrast = strength * brightness, strength * contrast
        self.saturation = strength * saturation
        if policy not in {None, *POLICIES}:
            raise ValueError(f"policy={policy}: allowed are null, {', '.join(POLICIES)}")
        self.policy = POLICIES[policy](fill=GREY) if policy else None

    def forward(
        self,
        images: Tensor,
        targets: Any = None,
        size: Size | None = None,
        crop: Size | None = None,
        draw: Draw | None = None,
    ) -> tuple[Tensor, Any]:
        """Change pictures, and move boxes and masks along.

        Args:
            images: uint8 `[B, 3, H, W]`.
            targets: `Boxes` of `[B, M, 4]`, masks uint8 `[B, H, W]`, or anything else, which stays
                as it is.
            size: of a whole picture as it comes out, in pixels; not less than half of H and W, for
                nothing smooths between them. None: as large as `images`.
            crop: of the part of it that comes out. None: all of it.
            draw: of random numbers, where other processes have the rest of the batch.

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
        else:  # mirrored margins would show objects that have no box
            moved = _sample(images.float() - GREY, grid, padding_mode="zeros") + GREY
            targets = _move_boxes(boxes, matrices, images.shape[2:], (height, width))
        if masks is not None:
            targets = _sample(masks[:, None].float(), grid, mode="nearest")[:, 0].to(masks.dtype)
        return self._colours(moved, draw), targets

    def _matrices(
        self, draw: Draw, whole: tuple[int, int], part: tuple[int, int], upright: bool
    ) -> Tensor:
        """Output to input coordinates, each from -1 to 1 over its height and width, `[B, 2, 3]`.

        Args:
            draw: of random numbers.
            whole: height and width of a whole picture.
            part: of the part that is cut out.
            upright: whether to turn by quarters only.
        """
        (degrees,) = draw.uniform(-self.degrees, self.degrees)
        if upright or not self.strength:
            degrees = (degrees / 90).round() * 90
        angle = degrees * (math.pi / 180)
        (zoom,) = 1 / draw.uniform(self.scale[0], self.scale[1])
        mirror = 1 - 2 * (draw.uniform(0, 1)[0] < self.flip).float()
        cosine, sine = angle.cos() * zoom, angle.sin() * zoom
        shift = draw.uniform(-2 * self.translate, 2 * self.translate, rows=2)
        if not self.degrees and self.scale == [1, 1]:
            sides = torch.tensor(whole[::-1]).view(2, 1)
            shift = (shift * sides / 2).round() * 2 / sides
        height, width = whole
        if part != whole:
            room = torch.tensor([1 - part[1] / width, 1 - part[0] / height]).view(2, 1)
            shift = shift + draw.uniform(-1, 1, rows=2) * room
        # Turns are turns in pixels, not in shares of sides that differ.
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
        # Rec. 601 luma; blending towards it is linear, so all three changes are one expression:
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
    """Moved boxes; boxes that left the picture lose their label. Sizes are height and width."""
    boxes, labels, ignored, _ = targets
    before, after = (boxes.new_tensor(size[::-1]) for size in (inputs, outputs))
    corners = torch.stack([boxes[..., :2], boxes[..., 2:]], dim=2) * (2 / before) - 1
    # The matrices lead from output to input; not every accelerator can invert them.
    back = torch.linalg.inv(matrices[:, :, :2]).to(boxes.device)
    shift = matrices[:, None, None, :, 2].to(boxes.device)
    corners = torch.einsum("bij,bmcj->bmci", back, corners - shift)
    ends = after.repeat(2)
    moved = torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=2).add(1).mul(ends / 2)
    inside = moved.clamp(min=0).minimum(ends)
    seen = _areas(inside) > VISIBLE * _areas(moved)
    return Boxes(inside, torch.where(seen, labels, NO_LABEL), ignored)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
