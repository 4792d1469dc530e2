"""Pictures that do not exist yet: what a generator is asked for. Nothing here imports torch.

Shapes: N pictures, H height and W width in pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data.pictures import Pictures, Resized
from nano_cv.metadata import Size, height_width


def noise(seed: int, index: int, size: Size) -> NDArray[np.float32]:
    """What picture `index` of a `seed` begins with, on any machine and engine: `[3, H, W]`."""
    generator = np.random.default_rng([seed, index])
    return generator.standard_normal((3, *height_width(size)), np.float32)


class Imagined(Pictures):
    """Labels to make pictures of; they also are the inputs of a generator.

    Args:
        labels: a class index each.
        classes: names of the classes.
        size: side of the pictures in pixels, or height and width.
        seed: of the noise.
        real: splits of real pictures to compare with; None where that is not asked for.
        judge: weights of a classifier that looks at the pictures.
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
        """This object: it is its own list of pictures."""
        return self

    def first(self, count: int) -> "Imagined":
        """The first `count` of them."""
        options = (self.classes, self.size, self.seed, self.real, self.judge)
        return Imagined(self.targets[:count], *options)

    def inputs(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """What a generator takes: `NOISE` float32 `[N, 3, H, W]` and `LABELS` int64 `[N, 1]`."""
        start = [noise(self.seed, index, self.size) for index in indices]
        labels = np.array([[self.targets[index]] for index in indices], np.int64)
        return {"NOISE": np.stack(start), "LABELS": labels}
