"""Image classification: one label a picture.

Shapes: B pictures, H height, W width, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassRecall,
)

from nano_cv import drawing
from nano_cv.drawing import Drawing
from nano_cv.tasks.task import Fetch, Task


class Classification(Task):
    """Cross-entropy on class indices; accuracy, macro F1, recall of each class, confusion matrix.

    Args:
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016).
        **options: those of `Task`.
    """

    monitor = "val/accuracy"

    def __init__(self, label_smoothing: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.label_smoothing = label_smoothing
        classes = len(self.contract.classes)
        self.val_metrics = _metrics(classes).clone(prefix="val/")
        self.test_metrics = _metrics(classes).clone(prefix="test/")
        self.recall = MulticlassRecall(classes, average="none")

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 `[B, 3, H, W]` to `CLASS_PROBS` float32 `[B, K]`, rows summing to 1."""
        return {"CLASS_PROBS": torch.softmax(self(images).float(), dim=1)}

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Loss of one batch: images `[B, 3, H, W]` in 0..255, int64 labels `[B]`."""
        images, labels = batch
        loss = cross_entropy(self(images), labels, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Loss and metrics of one batch."""
        images, labels = batch
        logits = self(images).float()
        self.log("val/loss", cross_entropy(logits, labels), batch_size=len(labels))
        self.val_metrics.update(logits, labels)
        self.log_dict(self.val_metrics, batch_size=len(labels))

    def test_step(self, batch: tuple[Tensor, Tensor], _: int) -> dict[str, Tensor]:
        """Metrics of one batch, and its predictions."""
        images, labels = batch
        predictions = self.predict(images)
        self.test_metrics.update(predictions["CLASS_PROBS"], labels)
        self.recall.update(predictions["CLASS_PROBS"], labels)
        self.log_dict(self.test_metrics, batch_size=len(labels))
        return predictions

    def on_test_epoch_end(self) -> None:
        """Log the recall of each class under its name."""
        for name, recall in zip(self.contract.classes, self.recall.compute(), strict=True):
            self.log(f"test/recall/{name}", recall)
        self.recall.reset()

    def table(
        self, predictions: Mapping[str, Tensor], targets: Tensor | None, names: Sequence[str]
    ) -> list[dict[str, Any]]:
        """File, predicted label, the true one if known, and the probability of each class."""
        classes, rows = self.contract.classes, []
        for index, (name, shares) in enumerate(
            zip(names, predictions["CLASS_PROBS"].tolist(), strict=True)
        ):
            row = {"file": name, "label": classes[shares.index(max(shares))]}
            if targets is not None:
                row["target"] = classes[int(targets[index])]
            row |= {label: f"{share:.6f}" for label, share in zip(classes, shares, strict=True)}
            rows.append(row)
        return rows

    def draw(
        self,
        fetch: Fetch,
        predictions: Mapping[str, Tensor],
        targets: Tensor | None,
        names: Sequence[str],
    ) -> dict[str, Drawing]:
        """Confusion matrix and worst mistakes; without targets, pictures with their labels."""
        classes, probabilities = self.contract.classes, predictions["CLASS_PROBS"].cpu()
        confidence, labels = probabilities.max(dim=1)
        captions = [
            f"{classes[label]} {share:.0%}"
            for label, share in zip(labels.tolist(), confidence.tolist(), strict=True)
        ]
        if targets is None:
            return {
                "predictions": drawing.sheet(
                    fetch(range(len(names[:24]))), captions[:24], names[:24]
                )
            }
        counts = torch.zeros(len(classes), len(classes), dtype=torch.int64)
        counts.index_put_((targets, labels), torch.tensor(1), accumulate=True)
        wrong = torch.nonzero(labels != targets).flatten()
        worst = wrong[confidence[wrong].argsort(descending=True)][:24].tolist()
        mistakes = drawing.sheet(
            fetch(worst),
            [f"{captions[i]}, is {classes[int(targets[i])]}" for i in worst],
            [names[i] for i in worst],
        )
        return {
            "confusion_matrix": drawing.confusion_matrix(counts.numpy(), classes),
            "worst_mistakes": mistakes,
        }


def _metrics(classes: int) -> MetricCollection:
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "f1": MulticlassF1Score(classes, average="macro"),
        }
    )
