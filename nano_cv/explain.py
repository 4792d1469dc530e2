"""Grad-CAM: which parts of a picture spoke for the label (Selvaraju et al. 2017).

Shapes: B pictures, C channels, H height, W width.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nano_cv import drawing
from nano_cv.drawing import Drawing
from nano_cv.reports import Fetch, Predictions
from nano_cv.tasks.task import Task

MOST = 24  # pictures on a sheet


def heatmaps(task: Task, images: Tensor, labels: Tensor) -> Tensor:
    """How much each place spoke for `labels`: float32 `[B, H, W]` in 0..1.

    Works on any network with a part called `features` that ends in `[B, C, h, w]`.
    """
    kept: list[Tensor] = []
    features: torch.nn.Module = task.network.get_submodule("features")
    hook = features.register_forward_hook(lambda _, __, output: kept.append(output))
    try:
        with torch.enable_grad():
            logits = task.eval()(images.to(task.device))
            chosen = logits.gather(1, labels.to(task.device)[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, kept)
    finally:
        hook.remove()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    maps = (weights * kept[0]).sum(dim=1, keepdim=True).relu().detach()
    maps = interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)).cpu()


def gradcam(
    task: Task,
    fetch: Fetch,
    predictions: Predictions,
    targets: Sequence[Any] | None,
    names: Sequence[str],
) -> Drawing:
    """A sheet of pictures under the heat of their predicted label; mistakes come first."""
    labels = predictions["CLASS_PROBS"].argmax(axis=1)
    order = np.arange(len(labels))
    if targets is not None:
        order = np.argsort(labels == np.asarray(targets), kind="stable")
    order = order[:MOST]
    images = fetch(order.tolist())
    heat = heatmaps(task, torch.from_numpy(images), torch.from_numpy(labels[order])).numpy()
    colours = matplotlib.colormaps["jet"](heat)[..., :3].transpose(0, 3, 1, 2) * 255
    overlaid = (0.55 * images + 0.45 * colours).astype(np.uint8)
    captions = [task.contract.classes[label] for label in labels[order]]
    return drawing.sheet(overlaid, captions, [names[index] for index in order])
