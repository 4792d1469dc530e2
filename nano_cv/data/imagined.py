"""Inputs of a generator: labels and noise to make images from. Nothing here imports torch.

Shapes: N images, H height and W width in pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data.pictures import Pictures, Resized
from nano_cv.metadata import Size, height_width


def noise(seed: int, index: int, size: Size) -> NDArray[np.float32]:
    """Draw the noise of image `index` of a `seed`, `[3, H, W]`, the same on every machine."""
    generator = np.random.default_rng([seed, index])
    return generator.standard_normal((3, *height_width(size)), np.float32)


class Imagined(Pictures):
    """List of images that a generator is to make, with the inputs of the generator.

    `real` are splits of real images to compare with, or None; `judge` the weights of a classifier
    that classifies the images.
    """

    def __init__(
        self,
        labels: Sequence[int],
        classes: Sequence[str],
        size: Size,
        seed: int,
        real: Mapping[str, Resized] | None = None,
        judge: Path | None = None,
    ) -> None:
        files = [Path(f"{classes[label]}_{index:03d}.png") for index, label in enumerate(labels)]
        super().__init__(Path(), files, labels, list(classes))
        self.size, self.seed, self.real, self.judge = size, seed, real, judge

    @property
    def pictures(self) -> Pictures:
        """The object itself, which is both the inputs and the list of images."""
        return self

    def inputs(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Return inputs of a generator: `NOISE` float32 `[N, 3, H, W]`, `LABELS` int64 `[N, 1]`."""
        start = [noise(self.seed, index, self.size) for index in indices]
        labels = np.array([[self.targets[index]] for index in indices], np.int64)
        return {"NOISE": np.stack(start), "LABELS": labels}
