"""Tags, a fourth kind of target: any number of labels per picture.

Shapes: N pictures, K classes."""

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nano_cv.data.targets import Labels, Packed, count_labels

# Why a set cannot train a generator.
SEVERAL = "several labels per picture; a generator learns from pictures with one label each"


class Tags(Labels):
    """Tuples of class indices, for a classification with several labels per picture."""

    def batch(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """uint8 `[N, K]`: 1 for each label that a picture has, else 0."""
        batch = np.zeros((len(indices), len(self.classes)), np.uint8)
        for row, index in enumerate(indices):
            batch[row, list(self.labels[index])] = 1
        return batch

    def count(self) -> NDArray[np.int64]:
        """Pictures that have each label `[K]`."""
        return count_labels([label for one in self.labels for label in one], self.classes)

    def pack(self, index: int) -> Packed:
        """The class indices as a list in JSON."""
        own = list(self.labels[index])
        return Packed(".json", json.dumps(own).encode(), own, count_labels(own, self.classes))
