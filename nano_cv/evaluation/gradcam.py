"""Grad-CAM: which parts of a picture spoke for the label (Selvaraju et al. 2017).

Shapes: B pictures, C channels, H height, W width.
"""

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from nano_cv.data.pictures import Pictures
from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.inputs import Inputs
from nano_cv.evaluation.reports import Predictions
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
            logits = task.eval()(images.to(task.mean.device))
            chosen = logits.gather(1, labels.to(task.mean.device)[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, kept)
    finally:
        hook.remove()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    maps = (weights * kept[0]).sum(dim=1, keepdim=True).relu().detach()
    maps = interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)).cpu()


def gradcam(task: Task, inputs: Inputs, predictions: Predictions, pictures: Pictures) -> Drawing:
    """A sheet of pictures under the heat of their predicted label; mistakes come first."""
    labels = predictions["CLASS_PROBS"].argmax(axis=1)
    order = np.arange(len(labels))
    if pictures.targets:
        order = np.argsort(labels == np.asarray(pictures.targets), kind="stable")
    order = order[:MOST]
    images = torch.from_numpy(inputs.inputs(order.tolist())["IMAGES"])
    heat = dict(zip(order, heatmaps(task, images, torch.from_numpy(labels[order])), strict=True))

    def paint(image: Drawing, index: int) -> Drawing:
        colours = matplotlib.colormaps["jet"](heat[index].numpy())[..., :3] * 255
        height, width = image.shape[:2]
        stretched = Image.fromarray(colours.astype(np.uint8)).resize((width, height))
        return (0.55 * image + 0.45 * np.asarray(stretched)).astype(np.uint8)

    captions = [drawing.shown(task.metadata.classes[label]) for label in labels]
    return drawing.sheet(pictures, order.tolist(), captions, paint)
