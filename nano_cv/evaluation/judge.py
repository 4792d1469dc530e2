"""A classifier of ours that looks at generated pictures, where others ask Inception.

So its distances are ours alone: they compare generators of one data set, and nothing with published
figures. Shapes: N pictures, F features.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from nano_cv.errors import UserError
from nano_cv.networks.lenet import LeNet
from nano_cv.tasks import weights

BATCH = 64


class Opinion(NamedTuple):
    """`labels` int64 `[N]`, the most probable classes, and `features` float32 `[N, F]`."""

    labels: NDArray[np.int64]
    features: NDArray[np.float32]


class Judge:
    """A trained LeNet; its features are those before its last layer, averaged over the places.

    Args:
        path: of its weights.

    Raises:
        UserError: no such weights, or of another network.
    """

    def __init__(self, path: Path) -> None:
        self.metadata = weights.read_metadata(path)
        if not self.metadata.model.startswith("lenet"):
            raise UserError(f"{path}: a judge is a lenet, and this is a {self.metadata.model}")
        options = {"image_size": self.metadata.image_size, **self.metadata.network}
        self.network = LeNet(num_classes=len(self.metadata.classes), **options).eval()
        self.network.load_state_dict(weights.load_file(path))

    @torch.inference_mode()
    def look(self, images: NDArray[np.uint8]) -> Opinion:
        """uint8 `[N, 3, H, W]` of any size to classes and features."""
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1) * 255
            for values in (self.metadata.mean, self.metadata.std)
        )
        labels, features = [], []
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH])).float()
            side = self.metadata.image_size
            if batch.shape[-1] != side:
                batch = interpolate(batch, size=side, mode="bilinear", antialias=True)
            maps = self.network.features((batch - mean) / std)
            labels.append(self.network.classifier(maps.flatten(1)).argmax(dim=1))
            features.append(adaptive_avg_pool2d(maps, 1).flatten(1))
        return Opinion(torch.cat(labels).numpy(), torch.cat(features).numpy())
