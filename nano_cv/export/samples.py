"""What an export is measured with: odd pictures, training and validation pictures, or noise."""

from collections.abc import Sequence

import numpy as np
from omegaconf import DictConfig

from nano_cv.data.datamodule import DataModule
from nano_cv.data.imagined import Imagined
from nano_cv.errors import UserError, listing
from nano_cv.evaluation import reports
from nano_cv.evaluation.inputs import Inputs, of_test
from nano_cv.export import parity
from nano_cv.export.graph import Arrays, in_batches
from nano_cv.export.parity import Run
from nano_cv.metadata import Metadata

COMPARED = 16  # generated pictures, which cost more than others


class Samples:
    """Inputs of a model from the data that it was trained on.

    Raises:
        UserError: the data has other classes than the model.
    """

    def __init__(self, config: DictConfig, data: DataModule, metadata: Metadata) -> None:
        # Also those of the training split are for the trained model.
        data.train_size, data.detail = None, 1.0
        data.setup()
        if data.classes != metadata.classes:
            raise UserError(
                f"the weights know {listing(metadata.classes)}, and data={data.name} has "
                f"{listing(data.classes)}; export with the data that they were trained on"
            )
        self.metadata = metadata
        self.training_inputs: Inputs = data.splits["train"]
        self.validation_inputs: Inputs = data.splits["val"]
        if metadata.task == "generation":  # its own noise, and labels as in the test split
            generated, _ = of_test(config, metadata, data.splits)
            self.training_inputs = self.validation_inputs = generated

    def odd(self) -> tuple[list[str], Arrays]:
        """Validation pictures, some cut to odd sizes and encoded anew, with their names."""
        if isinstance(self.validation_inputs, Imagined):
            names = self.validation_inputs.names[:COMPARED]
            return names, self._validation(range(len(names)))
        files = self.validation_inputs.pictures.files
        return parity.pictures(files, self.metadata.image_size, self.metadata.fit)

    def training(self, count: int) -> Arrays:
        """About `count` training pictures, evenly from the whole list."""
        pictures = len(self.training_inputs.pictures)
        chosen = range(0, pictures, max(1, pictures // count))
        return self.training_inputs.inputs(chosen)

    def batch(self, size: int) -> Arrays:
        """One batch, to time."""
        return self._validation([0] * size)

    def score(self, run: Run, size: int = 16) -> float:
        """The deciding metric of a way to run the model, on all validation pictures."""
        pictures = self.validation_inputs.pictures
        predictions = in_batches(run, self._validation(range(len(pictures))), size)
        report = reports.find(self.metadata.task)
        return report.metrics(self.metadata, predictions, pictures).get(report.gate, float("nan"))

    def _validation(self, indices: Sequence[int]) -> Arrays:
        given = self.validation_inputs.inputs(indices)
        return {name: np.ascontiguousarray(array) for name, array in given.items()}
