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

from nano_cv.data import images
from nano_cv.evaluation import drawing, painting
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.evaluate import Inputs
from nano_cv.evaluation.reports import Report
from nano_cv.evaluation.reports.classification import ClassificationReport
from nano_cv.metadata import TAGGING
from nano_cv.tasks.task import Task

MAX_PICTURES = 12  # pictures on a sheet


@contextmanager
def keep_features(task: Task) -> Iterator[list[Tensor]]:
    """Yield a list to which each call of `task` appends its features `[B, C, h, w]`.

    The network needs a part called `features`.
    """
    kept: list[Tensor] = []
    features: torch.nn.Module = task.network.get_submodule("features")
    with features.register_forward_hook(lambda _, __, output: kept.append(output)):
        yield kept


def make_heatmaps(task: Task, images: Tensor, labels: Tensor) -> Tensor:
    """How much each pixel supports the class in `labels` `[B]`: float32 `[B, H, W]` in 0..1."""
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
    """Draw pictures beside the heat maps of their most probable classes, mistakes first."""
    assert isinstance(report, ClassificationReport)
    labels, pictures = report.labels, report.pictures
    order = np.arange(len(labels))
    if pictures.targets:
        order = np.argsort(report.right, kind="stable")
    shown = order[:MAX_PICTURES].tolist()
    tensors = torch.from_numpy(inputs.inputs(shown)["IMAGES"])
    heat = make_heatmaps(task, tensors, torch.from_numpy(labels[shown]))
    heat_of = dict(zip(shown, heat.numpy(), strict=True))
    colours = matplotlib.colormaps["inferno"]

    def paint(image: Drawing, index: int) -> list[Drawing]:
        # The map covers the input of the network, of which a letterbox fills only a part.
        height, width = image.shape[:2]
        size, fit = task.metadata.image_size, task.metadata.fit
        left, top, wide, high = images.place(width, height, size, fit)
        inside = heat_of[index][top : top + high, left : left + wide]
        stretched = np.asarray(Image.fromarray(inside).resize((width, height))).clip(0, 1)
        heated = 0.4 * image + 0.6 * 255 * colours(stretched)[..., :3]
        return [image, heated.astype(np.uint8)]

    title = report.title_of(shown, "mistakes first" if pictures.targets else "the first")
    title += "\nright: how much each region supports the predicted class (Grad-CAM)"
    ends = zip(("least", "most"), colours((0.0, 1.0)), strict=True)
    legend = painting.key({text: tuple((255 * end[:3]).astype(int)) for text, end in ends})

    def caption(index: int) -> str:
        if report.metadata.task != TAGGING:
            return report.caption(index)
        # Of several labels, or none, say which the map is of.
        share = report.predictions["CLASS_PROBS"][index].max()
        return f"{report.caption(index)}\nheat map: {report.drawn[labels[index]]}, {share:.0%}"

    return drawing.sheet(pictures, shown, caption, paint, 2, title, legend, panels=2)
