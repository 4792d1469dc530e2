"""Fits the last layer of a pretrained network before fine-tuning, by logistic regression.

Fine-tuning that starts with a random last layer sends large gradients into good features (Kumar et
al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution"). The
frozen network with its fitted layer is also the result to beat.

Shapes: N pictures, F features, K classes.
"""

import copy
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nano_cv.data.pictures import Resized, evenly
from nano_cv.data.progress import track
from nano_cv.evaluation.engines import find_device
from nano_cv.tasks.classification import Classification
from nano_cv.tasks.task import Task

MAX_PICTURES = 10_000  # pictures of a split that are used, evenly chosen
BATCH = 32
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # on the squared weights; the validation split chooses one
log = logging.getLogger(__name__)


class Probe(NamedTuple):
    """A pretrained network with a last layer fitted to the new classes."""

    score: float  # the validation metric that also chooses the best epoch
    state: dict[str, Tensor]  # of the whole task


def fit_probe(task: Task, splits: Mapping[str, Resized], accelerator: str) -> Probe | None:
    """Fit the last layer of `task` to the training pictures; all other layers stay as they are.

    The regression is on centred features, with the penalty of `PENALTIES` that is best on the
    validation pictures. No random numbers are used. Returns None if the task is not classification,
    or its network has no single last layer.
    """
    network: Any = task.network
    if not (isinstance(task, Classification) and hasattr(network, "embed")):
        return None
    if not isinstance(network.classifier, nn.Linear):
        return None
    task.to(find_device(accelerator))
    (features, _, labels), (others, _, truth) = (
        features_of(task, splits[name], MAX_PICTURES, "Looking at the pictures")
        for name in ("train", "val")
    )
    task.cpu()  # `fitting.fit` checks it there before the training
    # One scale for all features: with a scale each, features that hardly vary would be blown up.
    mean, scale = features.mean(dim=0), features.std(dim=0).square().mean().sqrt().clamp(min=1e-6)
    fitted = []
    for penalty in PENALTIES:
        weight, bias = _fit(task, (features - mean) / scale, labels, penalty)
        weight = weight / scale  # so that the layer takes features as they are
        bias = bias - weight @ mean
        figures = task.figures([task.compare(others @ weight.T + bias, truth)])
        # In float32, because Lightning's metrics of the epochs, to compare with, are float32.
        score = float(np.float32(figures[task.monitor.removeprefix("val/")]))
        fitted.append((score, weight, bias))
    score, weight, bias = max(fitted, key=lambda one: one[0])
    with torch.no_grad():
        network.classifier.weight.copy_(weight)
        network.classifier.bias.copy_(bias)
    log.info("frozen network and logistic regression: %s %.4f", task.monitor, score)
    return Probe(score, copy.deepcopy(task.state_dict()))


def features_of(
    task: Classification, split: Resized, most: int, text: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute features and logits of at most `most` pictures of a split, evenly chosen.

    `text` stands beside the progress bar. The mode of the task, training or not, is restored.
    Returns features float32 `[N, F]`, logits float32 `[N, K]`, and the labels.
    """
    indices = evenly(len(split), most)
    parts = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]
    training, seen = task.training, []
    task.eval()
    with torch.no_grad():
        for part in track(parts, len(parts), text):
            images = torch.from_numpy(split.fetch(part)).to(task.mean.device)
            seen.append([output.float().cpu() for output in task.features_and_logits(images)])
    task.train(training)
    features, logits = map(torch.cat, zip(*seen, strict=True))
    return features, logits, torch.from_numpy(np.asarray(split.targets(indices)))


def _fit(
    task: Classification, features: Tensor, labels: Tensor, penalty: float
) -> tuple[Tensor, Tensor]:
    """Weight `[K, F]` and bias `[K]` of a logistic regression, by L-BFGS."""
    weight = torch.zeros(len(task.metadata.classes), features.shape[1], requires_grad=True)
    bias = torch.zeros(len(weight), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = task.loss(features @ weight.T + bias, labels, task.class_weights)
        value = value + penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()
