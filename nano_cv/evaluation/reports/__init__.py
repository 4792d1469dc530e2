"""Reports: what a person wants to know of a task's predictions. NumPy in, no torch.

A module a task, found by the task's name: `classification.py` for `Classification`. Whether torch,
onnxruntime or a Triton server predicted makes no difference here.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError
from nano_cv.evaluation.drawing import Drawing
from nano_cv.metadata import Metadata

Predictions = Mapping[str, NDArray[Any]]  # the outputs of `predict` by name, each `[N, ...]`


class Report(Protocol):
    """What a module of this package has. Of N predictions, `pictures` has the files and targets.

    Attributes:
        gate: the metric that decides whether a faster export is good enough; more is better.
        limits: what `compare` may at most find between torch and an exported model, by name.
    """

    gate: str
    limits: Mapping[str, float]

    def metrics(
        self, metadata: Metadata, predictions: Predictions, pictures: Pictures
    ) -> dict[str, float]:
        """Named figures; `test/...` is put before each name where they are shown and logged."""
        ...

    def table(
        self, metadata: Metadata, predictions: Predictions, pictures: Pictures
    ) -> list[dict[str, Any]]:
        """Rows for `predictions.csv`, all with the same keys, at least one a picture.

        Names of classes that are keys go through `tables.distinct`.
        """
        ...

    def draw(
        self, metadata: Metadata, predictions: Predictions, pictures: Pictures
    ) -> dict[str, Callable[[], Drawing]]:
        """Named pictures of what a person wants to see: a few of perhaps very many.

        Each is drawn when it is called, so that one which fails takes no other along.
        """
        ...

    def write(
        self, metadata: Metadata, predictions: Predictions, pictures: Pictures, folder: Path
    ) -> None:
        """Files for other programs, into `folder`: a task may have none."""
        ...

    def compare(self, expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
        """How far two predictions of the same inputs are apart: figures `[N]` by name."""
        ...


def confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """How often each class `[K, K]` was predicted (columns) where another is true (rows).

    Args:
        truth: class indices, any shape.
        predicted: likewise, of the same shape.
        classes: K.
    """
    pairs = truth.astype(np.int64) * classes + predicted
    return np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)


def find(task: str) -> Report:
    """The report of a task.

    Raises:
        UserError: there is none; says which file it would be.
    """
    module = f"{__name__}.{task}"
    if importlib.util.find_spec(module) is None:
        path = module.replace(".", "/")
        raise UserError(f"no report for {task}: {path}.py is missing")
    return cast(Report, importlib.import_module(module))
