"""Image classification: one label per picture.

Shapes: B pictures, H height, W width, K classes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nano_cv.tasks.metrics import classification_figures, confusion, without_prediction
from nano_cv.tasks.task import Losses, Task


class Classification(Task):
    """Cross-entropy on class indices; accuracy and macro F1 on the validation split.

    Args:
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016).
        mixup: alpha of the Beta distribution from which the shares of two pictures in their sum are
            drawn (Zhang et al. 2018); 0 leaves that out.
        cutmix: likewise, of the area that one picture takes of another (Yun et al. 2019). If both
            are on, each batch uses one, chosen at random.
        **options: those of `Task`.
    """

    monitor = "val/accuracy"

    def __init__(
        self,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.label_smoothing = label_smoothing
        self.mix: Callable[..., tuple[Tensor, Tensor]] | None = None
        if mixup or cutmix:
            from torchvision.transforms import v2  # takes a while, and few need it

            classes = len(self.metadata.classes)
            ways = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
            self.mix = v2.RandomChoice(
                [way(alpha=float(alpha), num_classes=classes) for way, alpha in ways if alpha]
            )

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 `[B, 3, H, W]` to `CLASS_PROBS` float32 `[B, K]`, rows summing to 1."""
        logits = self(images).float()
        if self.metadata.temperature != 1:
            logits = logits / self.metadata.temperature
        return {"CLASS_PROBS": torch.softmax(logits, dim=1)}

    def training_losses(self, images: Tensor, labels: Tensor) -> Losses:
        """Cross-entropy of images `[B, 3, H, W]` in 0..255 and int64 labels `[B]`."""
        if self.mix:
            images, labels = self.mix(images, labels)
        loss = cross_entropy(
            self(images), labels, self.class_weights, label_smoothing=self.label_smoothing
        )
        return {"loss": loss}

    def validate(self, images: Tensor, labels: Tensor, index: int) -> tuple[Losses, Any]:
        """Cross-entropy without smoothing; and true and predicted labels int64 `[2, B]`."""
        logits = self(images).float()
        pair = torch.stack([labels, logits.argmax(dim=1)]).cpu().numpy()
        return {"loss": cross_entropy(logits, labels)}, pair

    def never_predicted(self, validated: Sequence[Any]) -> list[str]:
        """See `Task`."""
        classes = self.metadata.classes
        truth, predicted = np.concatenate(validated, axis=1)
        return without_prediction(confusion(truth, predicted, len(classes)), classes)

    def figures(self, validated: Sequence[Any]) -> dict[str, float]:
        """`accuracy` and `f1` of the report."""
        truth, predicted = np.concatenate(validated, axis=1)
        classes = self.metadata.classes
        figures = classification_figures(confusion(truth, predicted, len(classes)), classes)
        return {name: figures[name] for name in ("accuracy", "f1")}
