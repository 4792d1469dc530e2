"""The pictures that an export is measured with: odd ones, training and validation pictures."""

from collections.abc import Sequence

import numpy as np

from nano_cv import reports
from nano_cv.contract import Contract
from nano_cv.data.datamodule import DataModule
from nano_cv.errors import UserError, listing
from nano_cv.export import parity
from nano_cv.export.graph import Arrays, in_batches
from nano_cv.export.parity import Run


class Samples:
    """Inputs of a model from the data that it was trained on.

    Raises:
        UserError: the data has other classes than the model.
    """

    def __init__(self, data: DataModule, contract: Contract) -> None:
        data.setup()
        if data.classes != contract.classes:
            raise UserError(
                f"the weights know {listing(contract.classes)}, and data={data.name} has "
                f"{listing(data.classes)}; export with the data that they were trained on"
            )
        self.data, self.contract = data, contract

    def odd(self) -> tuple[list[str], Arrays]:
        """Validation pictures, some cut to odd sizes and encoded anew, with their names."""
        files = self.data.splits["val"].pictures.files
        return parity.pictures(files, self.contract.image_size)

    def training(self, count: int) -> Arrays:
        """About `count` training pictures, evenly from the whole list."""
        pictures = len(self.data.splits["train"])
        return self._inputs("train", range(0, pictures, max(1, pictures // count)))

    def batch(self, size: int) -> Arrays:
        """One batch, to time."""
        return self._inputs("val", [0] * size)

    def score(self, run: Run, size: int = 16) -> dict[str, float]:
        """The metrics of a way to run the model, on all validation pictures."""
        split = self.data.splits["val"]
        predictions = in_batches(run, self._inputs("val", range(len(split))), size)
        report = reports.find(self.contract.task)
        return report.metrics(self.contract, predictions, split.pictures.targets)

    def _inputs(self, split: str, indices: Sequence[int]) -> Arrays:
        return {"IMAGES": np.ascontiguousarray(self.data.splits[split].fetch(list(indices)))}
