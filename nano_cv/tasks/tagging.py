"""Image classification with several labels per picture: a sigmoid and a threshold for each label.

If a data set has several labels per picture, `building.make_task` makes this task and not
`Classification`. Shapes: B pictures, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from nano_cv.tasks.classification import Classification
from nano_cv.tasks.score_metrics import count_tags, tagging_figures


class Tagging(Classification):
    """Binary cross-entropy for each label; mean average precision on the validation split.

    Labels are uint8 `[B, K]`, 1 where a picture has the label. The options are those of
    `Classification`; label smoothing moves each target towards 0.5.
    """

    monitor = "val/mAP"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.mix:  # torchvision of Intel Macs refuses such labels: better now than in training
            self.mix(torch.zeros(2, 3, 8, 8), torch.zeros(2, len(self.metadata.classes)))

    def answer(self, logits: Tensor) -> dict[str, Tensor]:
        """Turn logits float32 `[B, K]` into a probability and a decision for each label.

        Returns:
            `CLASS_PROBS` float32 `[B, K]`, whose rows need not sum to 1; `LABEL_SET` bool
            `[B, K]`, true where the probability reaches the threshold of the label.
        """
        shares = logits.sigmoid()
        return {
            "CLASS_PROBS": shares,
            "LABEL_SET": shares >= shares.new_tensor(self.metadata.confidences),
        }

    def loss(
        self, logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """Binary cross-entropy; `weights` `[K]` multiply the loss of pictures with the label."""
        targets = labels.float() * (1 - smoothing) + smoothing / 2
        own = None if weights is None else 1 + labels.float() * (weights - 1)
        return binary_cross_entropy_with_logits(logits, targets, own)

    def compare(self, logits: Tensor, labels: Tensor) -> NDArray[Any]:
        """True labels and probabilities, float32 `[2, B, K]`."""
        return torch.stack([labels.float(), logits.sigmoid()]).cpu().numpy()

    def never_predicted(self, validated: Sequence[Any]) -> list[str]:
        """None, because thresholds are fitted later so that each label is predicted."""
        return []

    def figures(self, validated: Sequence[Any]) -> dict[str, float]:
        """`mAP`, and `mF1` at thresholds that are not fitted yet."""
        truth, shares = np.concatenate(validated, axis=1)
        classes, least = self.metadata.classes, self.metadata.confidences
        figures = tagging_figures(count_tags(truth > 0, shares), least, classes)
        return {name: figures[name] for name in ("mAP", "mF1")}
