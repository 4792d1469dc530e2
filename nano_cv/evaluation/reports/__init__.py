"""Reports: metrics, tables and drawings of predictions, which are NumPy arrays. No torch.

Each task has a report class in the module of the same name. A task of your own may have its report
in its own file, `nano_cv/tasks/<name>.py`. Reports are the same for torch, onnxruntime and Triton.
"""

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError
from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.metadata import Metadata

Predictions = Mapping[str, NDArray[Any]]  # the outputs of `predict` by name, each `[N, ...]`


class Report(ABC):
    """Report of the predictions of a model for N pictures, with their targets if known.

    Attributes:
        gate: the metric that decides whether a faster export is good enough; higher is better.
        further_gates: other metrics that must not fall, if `metrics` has them.
        limits: the largest differences, by name, that `compare` may find between torch and an
            exported model.
        title: first line of all drawings: the model, and the main metric once it is known.
    """

    gate: ClassVar[str]
    further_gates: ClassVar[Sequence[str]] = ()
    limits: ClassVar[Mapping[str, float]]

    def __init__(self, metadata: Metadata, predictions: Predictions, pictures: Pictures) -> None:
        self.metadata, self.predictions, self.pictures = metadata, predictions, pictures
        self.classes, self.title = metadata.classes, metadata.name

    @cached_property
    def drawn(self) -> list[str]:
        """The names of the classes for drawings, see `drawing.legible`."""
        return drawing.legible(tuple(self.classes))

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Metrics of pictures with targets; shown and logged as `test/<name>`."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Rows for `predictions.csv`, all with the same keys, at least one per picture.

        Keys that are names of classes are made by `tables.distinct`.
        """

    def class_rows(self) -> list[dict[str, Any]]:
        """Rows for `classes.csv`, for pictures with targets, made by `tables.class_rows`."""
        return []

    @abstractmethod
    def drawings(self) -> dict[str, Callable[[], Drawing]]:
        """Functions that draw, by the name of the drawing; if one fails, the others still draw."""

    def title_of(self, indices: Sequence[int], what: str) -> str:
        """The title of a drawing of the pictures `indices`; `what` says how they were chosen."""
        count = len(self.pictures)
        said = f"\n{len(indices)} of {count} pictures, {what}" if len(indices) < count else ""
        return self.title + said

    def remarks(self) -> list[str]:
        """Sentences printed below the table; most tasks have none."""
        return []

    def write_files(self, folder: Path) -> None:  # noqa: B027
        """Write files for other programs into `folder`; most tasks have none."""

    @staticmethod
    @abstractmethod
    def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
        """Differences `[N]`, by name, between two predictions for the same N inputs."""


def find(task: str) -> type[Report]:
    """Find the report class of a task in the module of this name, here or in `nano_cv.tasks`.

    Raises:
        UserError: there is no report; says in which file it must be.
    """
    for package in (__name__, "nano_cv.tasks"):
        module = f"{package}.{task}"
        # The name may come from an unknown file, so only these two packages are looked into.
        if not task.isidentifier() or importlib.util.find_spec(module) is None:
            continue
        for found in vars(importlib.import_module(module)).values():
            own = isinstance(found, type) and issubclass(found, Report)
            if own and found.__module__ == module:
                return found
    path = __name__.replace(".", "/")
    raise UserError(
        f"no report for {task}: a subclass of Report is missing, in {path}/{task}.py or in "
        f"nano_cv/tasks/{task}.py"
    )
