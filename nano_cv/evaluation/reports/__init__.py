"""Reports: metrics, table and drawings of a task's predictions. NumPy in, no torch.

Each task has a class here, in the module with the task's name: `classification.py` has the one for
`Classification`. A task of your own may have its report in its own file, `nano_cv/tasks/<name>.py`.
Whether torch, onnxruntime or a Triton server predicted makes no difference.
"""

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError
from nano_cv.metadata import Metadata

if TYPE_CHECKING:
    from nano_cv.evaluation.drawing import Drawing

Predictions = Mapping[str, NDArray[Any]]  # the outputs of `predict` by name, each `[N, ...]`


class Report(ABC):
    """Report of N predictions; figures that several methods need are computed once and kept.

    Args:
        metadata: of the model.
        predictions: of the model.
        pictures: the files of the N pictures, and their targets if these are known.

    Attributes:
        gate: the metric that decides whether a faster export is good enough; more is better.
        further_gates: other metrics that must not fall either, where `metrics` has them.
        title: of all drawings: the model, and what `evaluate` has found out about it.
        limits: the largest differences, by name, that `compare` may find between torch and an
            exported model.
    """

    gate: ClassVar[str]
    further_gates: ClassVar[Sequence[str]] = ()
    limits: ClassVar[Mapping[str, float]]

    def __init__(self, metadata: Metadata, predictions: Predictions, pictures: Pictures) -> None:
        self.metadata, self.predictions, self.pictures = metadata, predictions, pictures
        self.classes, self.title = metadata.classes, metadata.name

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Named figures, for pictures with targets; shown and logged as `test/<name>`."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Rows for `predictions.csv`, all with the same keys, at least one for each picture.

        Names of classes that are keys go through `tables.distinct`.
        """

    def class_rows(self) -> list[dict[str, Any]]:
        """Rows for `classes.csv`, one per class, for pictures with targets; most tasks have some.

        They are made by `tables.class_rows`.
        """
        return []

    @abstractmethod
    def drawings(self) -> dict[str, Callable[[], "Drawing"]]:
        """Named drawings of a few of perhaps very many pictures.

        Each is drawn when it is called, so that a drawing that fails takes no other along.
        """

    def title_of(self, indices: Sequence[int], what: str) -> str:
        """The title of a drawing of the pictures `indices`; `what` says which of all these are."""
        count = len(self.pictures)
        said = f"\n{len(indices)} of {count} pictures, {what}" if len(indices) < count else ""
        return self.title + said

    def remarks(self) -> list[str]:
        """Sentences about what the table does not show; most tasks have none."""
        return []

    def write_files(self, folder: Path) -> None:  # noqa: B027
        """Write files for other programs into `folder`; most tasks have none."""

    @staticmethod
    @abstractmethod
    def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
        """Differences between two predictions for the same N inputs: figures `[N]` by name."""


def find(task: str) -> type[Report]:
    """The report of a task: the class in the module of that name, here or in `nano_cv.tasks`.

    Raises:
        UserError: there is no report; says which file it would be in.
    """
    for package in (__name__, "nano_cv.tasks"):
        module = f"{package}.{task}"
        # The name may come from a foreign file: only modules of these two packages are imported.
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
