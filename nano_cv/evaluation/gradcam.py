"""Grad-CAM: the regions of a picture that support the predicted label (Selvaraju et al. 2017).

Shapes: B pictures, C channels, H height, W width.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.inputs import Inputs
from nano_cv.evaluation.reports import Report
from nano_cv.tasks.task import Task

MOST = 24  # pictures on a sheet


@contextmanager
def keep_features(task: Task) -> Iterator[list[Tensor]]:
    """Yield a list to which each call of `task` appends its features `[B, C, h, w]`.

    Works on any network with a part called `features`.
    """
    kept: list[Tensor] = []
    features: torch.nn.Module = task.network.get_submodule("features")
    hook = features.register_forward_hook(lambda _, __, output: kept.append(output))
    try:
        yield kept
    finally:
        hook.remove()


def make_heatmaps(task: Task, images: Tensor, labels: Tensor) -> Tensor:
    """How much each place supports `labels`: float32 `[B, H, W]` in 0..1."""
    device = task.mean.device
    with keep_features(task) as kept, torch.enable_grad():
        logits = task.eval()(images.to(device))
        chosen = logits.gather(1, labels.to(device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, kept)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    maps = (weights * kept[0]).sum(dim=1, keepdim=True).relu().detach()
    maps = interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)).cpu()


def draw_heatmaps(task: Task, inputs: Inputs, report: Report) -> Drawing:
    """A sheet of pictures under the heat of their predicted label; mistakes come first."""
    labels, pictures = report.predictions["CLASS_PROBS"].argmax(axis=1), report.pictures
    order = np.arange(len(labels))
    if pictures.targets:
        truth = map(np.atleast_1d, pictures.targets)
        right = [label in own for label, own in zip(labels, truth, strict=True)]
        order = np.argsort(right, kind="stable")
    order = order[:MOST]
    images = torch.from_numpy(inputs.inputs(order.tolist())["IMAGES"])
    heat = make_heatmaps(task, images, torch.from_numpy(labels[order]))
    heat_of = dict(zip(order, heat, strict=True))

    def paint(image: Drawing, index: int) -> Drawing:
        colours = matplotlib.colormaps["jet"](heat_of[index].numpy())[..., :3] * 255
        height, width = image.shape[:2]
        stretched = Image.fromarray(colours.astype(np.uint8)).resize((width, height))
        return (0.55 * image + 0.45 * np.asarray(stretched)).astype(np.uint8)

    captions = [drawing.shown(task.metadata.classes[label]) for label in labels]
    return drawing.sheet(pictures, order.tolist(), captions, paint)
