"""Semantic segmentation: a class for each pixel.

Shapes: B pictures, H height, W width, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from nano_cv.data.images import IGNORE
from nano_cv.tasks.metrics import mask_confusion, segmentation_figures, without_prediction
from nano_cv.tasks.task import Losses, Task


class Segmentation(Task):
    """Cross-entropy plus Dice loss times `dice_weight`; pixels of 255 are left out of both."""

    monitor = "val/mIoU"

    def __init__(self, dice_weight: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.dice_weight = dice_weight

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Find the most probable class of each pixel: `MASK` uint8 `[B, H, W]`."""
        return {"MASK": self(images).argmax(dim=1).to(torch.uint8)}

    def training_losses(self, images: Tensor, masks: Tensor) -> Losses:
        """Losses of images `[B, 3, H, W]` in 0..255 and masks uint8 `[B, H, W]`."""
        return self._losses(self(images), masks)

    def validate(self, images: Tensor, masks: Tensor, places: Tensor) -> tuple[Losses, Any]:
        """Losses, and the confusion matrix of the pixels `[K, K]`."""
        logits = self(images)
        pair = masks.cpu().numpy(), logits.argmax(dim=1).cpu().numpy()
        return self._losses(logits, masks), mask_confusion(*pair, len(self.metadata.classes))

    def never_predicted(self, validated: Sequence[Any]) -> list[str]:
        """See `Task`."""
        return without_prediction(np.sum(validated, axis=0), self.metadata.classes)

    def figures(self, validated: Sequence[Any]) -> dict[str, float]:
        """`mIoU` and `accuracy` at the size of the network, not at that of the pictures."""
        figures = segmentation_figures(np.sum(validated, axis=0), self.metadata.classes)
        return {name: figures[name] for name in ("mIoU", "accuracy")}

    def _losses(self, logits: Tensor, masks: Tensor) -> Losses:
        logits, masks = logits.float(), masks.long()
        entropy = cross_entropy(
            logits, masks, self.class_weights, ignore_index=IGNORE, reduction="sum"
        )
        entropy = entropy / (masks != IGNORE).sum().clamp(min=1)
        dice = dice_loss(logits, masks)
        total = entropy + self.dice_weight * dice
        return {"loss": total, "loss_entropy": entropy, "loss_dice": dice}


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice loss (Milletari et al. 2016, "V-Net") of logits `[B, K, H, W]`, masks int64 `[B, H, W]`.

    Masks have 255 where no class is known. The loss is 1 - 2 * overlap / (true area + predicted
    area), the mean over classes that occur. If absent classes counted too, never predicting a rare
    class would give the lowest loss.
    """
    known = (masks != IGNORE)[:, None]
    probability = logits.softmax(dim=1) * known
    truth = one_hot(masks.where(known[:, 0], 0), logits.shape[1]).permute(0, 3, 1, 2) * known
    overlap = (probability * truth).sum(dim=(0, 2, 3))
    area = truth.sum(dim=(0, 2, 3))
    losses = 1 - 2 * overlap / (probability.sum(dim=(0, 2, 3)) + area).clamp(min=1)
    occurs = area > 0
    return (losses * occurs).sum() / occurs.sum().clamp(min=1)
