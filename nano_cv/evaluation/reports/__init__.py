"""Reports: metrics, tables and drawings of predictions, which are NumPy arrays. No torch.

Each task has a report class in the module of the same name. A task of your own may have its report
in its own file, `nano_cv/tasks/<name>.py`. Reports are the same for torch, onnxruntime and Triton.
"""

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.pictures import Pictures, full_first
from nano_cv.errors import UserError
from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.metadata import Metadata

Predictions = Mapping[str, NDArray[Any]]  # the outputs of `predict` by name, each `[N, ...]`


class Report(ABC):
    """Report of the predictions of a model for N pictures, with their targets if known."""

    gate: ClassVar[str]  # the metric by which a faster export is good enough; higher is better
    further_gates: ClassVar[Sequence[str]] = ()  # others that must not fall, if `metrics` has them
    # The largest differences, by name, that `compare` may find between torch and an export.
    limits: ClassVar[Mapping[str, float]]
    most: ClassVar = 12  # the largest number of pictures on a sheet
    choice: ClassVar = "evenly chosen"  # how `predictions.png` chooses pictures
    unit: ClassVar = "pictures"  # what the figures are about, for the title of drawings

    def __init__(self, metadata: Metadata, predictions: Predictions, pictures: Pictures) -> None:
        self.metadata, self.predictions, self.pictures = metadata, predictions, pictures
        self.classes = metadata.classes
        self.title = metadata.name  # of all drawings; the main metric follows once it is known

    @cached_property
    def drawn(self) -> list[str]:
        """The names of the classes for drawings, see `drawing.legible`."""
        return drawing.legible(tuple(self.classes))

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of each picture."""
        return [images.dimensions(file) for file in self.pictures.files]

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Metrics of pictures with targets; shown and logged as `test/<name>`."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Rows for `predictions.csv`, all with the same keys, at least one per picture.

        Keys that are names of classes are made by `tables.distinct`.
        """

    def describe(self, top: int | None) -> dict[str, Any]:
        """The answer about the first picture, as JSON can hold it.

        `top` is how many of the most probable classes are given; None gives all. This base class
        gives the outputs as they are.
        """
        return {name: values[0].tolist() for name, values in self.predictions.items()}

    def class_rows(self) -> list[dict[str, Any]]:
        """Rows for `classes.csv`, for pictures with targets, made by `tables.class_rows`."""
        return []

    # What `drawings` of this class needs: a sheet of the pictures of these indices, chosen so; and
    # how wrong each picture `[N]` was predicted, 0 for no mistake, and how this was measured.
    _draw_sheet: Callable[[Sequence[int], str], Drawing]
    _mistakes: Callable[[], tuple[NDArray[Any], str]]

    @abstractmethod
    def drawings(self) -> dict[str, Callable[[], Drawing]]:
        """Functions that draw, by the name of the drawing; if one fails, the others still draw.

        This base class draws pictures evenly chosen, and, with targets, the worst mistakes. Of
        pictures that are empty, only as many are drawn as fill the sheet.
        """
        chosen = full_first(len(self.pictures), self.most, self._is_empty)
        sheets = {"predictions": partial(self._draw_sheet, chosen, self.choice)}
        if self.pictures.targets:
            wrong, what = self._mistakes()
            order = np.argsort(-wrong, kind="stable")
            worst = order[wrong[order] > 0][: self.most].tolist()
            sheets["worst_mistakes"] = partial(self._draw_sheet, worst, what)
        return dict(sheets)

    def _is_empty(self, index: int) -> bool:
        """Whether a picture has neither a true nor a found object; it is drawn last."""
        return False

    def title_of(self, indices: Sequence[int], what: str) -> str:
        """The title of a drawing of the pictures `indices`; `what` says how they were chosen."""
        count = len(self.pictures)
        note = f"\n{len(indices)} of {count} pictures, {what}" if len(indices) < count else ""
        return self.title + note

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
    for module in (f"{__name__}.{task}", f"nano_cv.tasks.{task}"):
        # The name may come from an unknown file, so only these two packages are looked into.
        if task.isidentifier() and importlib.util.find_spec(module):
            for member in vars(importlib.import_module(module)).values():
                own = isinstance(member, type) and issubclass(member, Report)
                if own and member.__module__ == module:
                    return member
    path = __name__.replace(".", "/")
    raise UserError(
        f"no report for {task}: a subclass of Report is missing, in {path}/{task}.py or in "
        f"nano_cv/tasks/{task}.py"
    )
