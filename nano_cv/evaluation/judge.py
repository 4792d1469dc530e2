"""A classifier of the same data set that judges generated pictures, in place of Inception.

Its figures compare generators of one data set. They cannot be compared with published figures.
Shapes: N pictures, F features.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from nano_cv.errors import UserError
from nano_cv.evaluation.gradcam import keep_features
from nano_cv.networks.lenet import LeNet
from nano_cv.tasks import weights
from nano_cv.tasks.classification import Classification

BATCH = 64


class Judge:
    """A trained LeNet; its features are the last feature map, averaged over the places.

    Raises:
        UserError: there are no such weights, or they are of another network.
    """

    def __init__(self, path: Path) -> None:
        metadata = weights.read_metadata(path)
        if not metadata.model.startswith("lenet"):
            raise UserError(f"{path}: a judge is a lenet, and this is a {metadata.model}")
        network = partial(LeNet, **metadata.network)
        self.task = Classification(metadata=metadata, network=network).eval()
        weights.load(self.task, path)

    @torch.inference_mode()
    def classify(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The most probable classes `[N]` of images uint8 `[N, 3, H, W]`, and features `[N, F]`."""
        side = self.task.metadata.image_size
        labels, features = [], []
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH])).float()
            if batch.shape[-1] != side:
                batch = interpolate(batch, size=side, mode="bilinear", antialias=True)
            with keep_features(self.task) as kept:
                labels.append(self.task(batch).argmax(dim=1))
            features.append(adaptive_avg_pool2d(kept[0], 1).flatten(1))
        return torch.cat(labels).numpy(), torch.cat(features).numpy()
