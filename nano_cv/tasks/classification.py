"""Image classification: one label per picture, with calibrated probabilities.

Shapes: B pictures, H height, W width, K classes, F features, D dimensions of a plane.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nano_cv.tasks.metrics import classification_figures, confusion, without_prediction
from nano_cv.tasks.task import Losses, Task


class Classification(Task):
    """Cross-entropy on class indices; accuracy and macro F1 on the validation split.

    `configs/model/lenet.yaml` explains the options. If `mixup` and `cutmix` are both on, each batch
    uses one of them, chosen at random. `label_smoothing` is that of Szegedy et al. 2016.
    `familiarity` measures how unlike the training pictures a picture is; None until fitted.
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
        self.familiarity: Familiarity | None = None
        self.mix: Callable[..., tuple[Tensor, Tensor]] | None = None
        if mixup or cutmix:
            from torchvision.transforms import v2  # takes a while, and few need it

            classes = len(self.metadata.classes)
            ways = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
            self.mix = v2.RandomChoice(
                [way(alpha=float(alpha), num_classes=classes) for way, alpha in ways if alpha]
            )

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Classify images uint8 `[B, 3, H, W]`.

        Returns:
            `CLASS_PROBS` float32 `[B, K]`, whose rows sum to 1; after calibration also `LABEL_SET`
            bool `[B, K]`, the probable classes with the most probable always among them, and
            `FOREIGN` float32 `[B, 1]`, above 0 for pictures unlike the training pictures.
        """
        if self.familiarity is None:
            return self.answer(self(images).float())
        features, logits = self.features_and_logits(images)
        return self.answer(logits) | {"FOREIGN": self.familiarity(features, logits)}

    def answer(self, logits: Tensor) -> dict[str, Tensor]:
        """Turn logits float32 `[B, K]` into `CLASS_PROBS` and `LABEL_SET`, see `predict`."""
        temperature, set_from = self.metadata.temperature, self.metadata.set_from
        shares = torch.softmax(logits if temperature == 1 else logits / temperature, dim=1)
        if set_from is None:
            return {"CLASS_PROBS": shares}
        likeliest = shares >= shares.amax(dim=1, keepdim=True)
        return {"CLASS_PROBS": shares, "LABEL_SET": (shares >= set_from) | likeliest}

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of the last layer, float32 `[B, F]`, and the logits `[B, K]`.

        F is 0 for a network without a method `embed`.
        """
        network: Any = self.network
        last = getattr(network, "classifier", None)
        if not (hasattr(network, "embed") and isinstance(last, nn.Linear)):
            logits = self(images).float()
            return logits[:, :0], logits
        features = network.embed((images.float() - self.mean) / self.std)
        return features.float(), last(features).float()

    def training_losses(self, images: Tensor, labels: Tensor) -> Losses:
        """Cross-entropy of images `[B, 3, H, W]` in 0..255 and int64 labels `[B]`."""
        if self.mix:
            images, labels = self.mix(images, labels)
        return {"loss": self.loss(self(images), labels, self.class_weights, self.label_smoothing)}

    def loss(
        self, logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
    ) -> Tensor:
        """Cross-entropy of logits `[B, K]` and labels, with weights `[K]` of the classes.

        A weight is that of a picture. torch's own option multiplies the smoothed part by the
        weights of all classes, which makes a rare class likely for each picture.
        """
        if weights is None:
            return cross_entropy(logits, labels, label_smoothing=smoothing)
        losses = cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        own = weights[labels] if labels.ndim == 1 else labels @ weights
        return (own * losses).sum() / own.sum()

    def validate(self, images: Tensor, labels: Tensor, places: Tensor) -> tuple[Losses, Any]:
        """Cross-entropy without smoothing; and true and predicted labels int64 `[2, B]`."""
        logits = self(images).float()
        return {"loss": self.loss(logits, labels)}, self.compare(logits, labels)

    def compare(self, logits: Tensor, labels: Tensor) -> NDArray[Any]:
        """True and predicted labels int64 `[2, B]`, from which `figures` computes metrics."""
        # No confusion matrix: with 1,000 classes that of each batch would take 8 MB.
        return torch.stack([labels, logits.argmax(dim=1)]).cpu().numpy()

    def never_predicted(self, validated: Sequence[Any]) -> list[str]:
        """See `Task`."""
        return without_prediction(self._confusion(validated), self.metadata.classes)

    def figures(self, validated: Sequence[Any]) -> dict[str, float]:
        """`accuracy` and `f1` of the report."""
        figures = classification_figures(self._confusion(validated), self.metadata.classes)
        return {name: figures[name] for name in ("accuracy", "f1")}

    def _confusion(self, validated: Sequence[Any]) -> NDArray[np.int64]:
        truth, predicted = np.concatenate(validated, axis=1)
        return confusion(truth, predicted, len(self.metadata.classes))


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
