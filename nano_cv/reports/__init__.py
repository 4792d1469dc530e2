"""Reports: what a person wants to know of a task's predictions. NumPy in, no torch.

A module a task, found by the task's name: `classification.py` for `Classification`. Whether torch,
onnxruntime or a Triton server predicted makes no difference here.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from nano_cv.contract import Contract
from nano_cv.drawing import Drawing
from nano_cv.errors import UserError

Predictions = Mapping[str, NDArray[Any]]  # the outputs of `predict` by name, each `[N, ...]`
Fetch = Callable[[Sequence[int]], NDArray[np.uint8]]  # indices to images `[n, 3, S, S]`


class Report(Protocol):
    """What a module of this package has. `targets` is a sequence of N, as the data set has them."""

    def metrics(
        self, contract: Contract, predictions: Predictions, targets: Sequence[Any]
    ) -> dict[str, float]:
        """Named figures; `test/...` is put before each name where they are shown and logged."""
        ...

    def table(
        self,
        contract: Contract,
        predictions: Predictions,
        targets: Sequence[Any] | None,
        names: Sequence[str],
    ) -> list[dict[str, Any]]:
        """Rows for `predictions.csv`, all with the same keys; targets are None where unknown."""
        ...

    def draw(
        self,
        contract: Contract,
        fetch: Fetch,
        predictions: Predictions,
        targets: Sequence[Any] | None,
        names: Sequence[str],
    ) -> dict[str, Drawing]:
        """Named pictures of what a person wants to see.

        `fetch` turns indices into images: a few of perhaps very many.
        """
        ...


def find(task: str) -> Report:
    """The report of a task.

    Raises:
        UserError: there is none; says which file it would be.
    """
    module = f"{__name__}.{task}"
    if importlib.util.find_spec(module) is None:
        path = module.replace(".", "/")
        raise UserError(f"no report for {task}: {path}.py with metrics, table and draw is missing")
    return cast(Report, importlib.import_module(module))
