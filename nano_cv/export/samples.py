"""Inputs to measure an export with: odd, training and validation pictures, or noise."""

from omegaconf import DictConfig

from nano_cv.data.datamodule import DataModule
from nano_cv.data.imagined import Imagined
from nano_cv.errors import UserError, listing
from nano_cv.evaluation import reports
from nano_cv.evaluation.engines import Arrays, Engine, predict_all
from nano_cv.evaluation.inputs import Inputs, of_test
from nano_cv.export import parity
from nano_cv.metadata import Metadata

COMPARED = 16  # generated pictures, which cost more than others
BATCH = 16  # pictures


class Samples:
    """Inputs of a model from the data that it was trained on.

    Raises:
        UserError: the data has other classes than the model.
    """

    def __init__(self, config: DictConfig, data: DataModule, metadata: Metadata) -> None:
        # Also those of the training split are for the trained model.
        data.train_size, data.crop, data.detail = None, None, 1.0
        data.image_size = metadata.image_size
        data.setup()
        if data.classes != metadata.classes:
            raise UserError(
                f"the weights know {listing(metadata.classes)}, and data={data.name} has "
                f"{listing(data.classes)}; export with the data that they were trained on"
            )
        self.metadata = metadata
        self.report = reports.find(metadata.task)
        self.training: Inputs = data.splits["train"]
        self.validation: Inputs = data.splits["val"]
        if metadata.task == "generation":  # its own noise, and labels as in the test split
            self.training = self.validation = of_test(config, metadata, data.splits)[0]

    def load_odd(self) -> tuple[list[str], Arrays]:
        """Validation pictures, some cut to odd sizes and encoded anew, with their names."""
        if isinstance(self.validation, Imagined):
            names = self.validation.names[:COMPARED]
            return names, self.validation.inputs(range(len(names)))
        files = self.validation.pictures.files
        return parity.load_odd(files, self.metadata.image_size, self.metadata.fit)

    def load_training(self, count: int) -> Arrays:
        """About `count` training pictures, evenly from the whole list."""
        pictures = len(self.training.pictures)
        return self.training.inputs(range(0, pictures, max(1, pictures // count)))

    def score(self, engine: Engine) -> dict[str, float]:
        """The metrics that decide, more is better, of an engine on all validation pictures.

        The first is NaN where it cannot be known; further ones are then left out.
        """
        pictures = self.validation.pictures
        predictions = predict_all(engine, self.validation.inputs, len(pictures), BATCH)
        found = self.report(self.metadata, predictions, pictures).metrics()
        further = {name: found[name] for name in self.report.further_gates if name in found}
        return {self.report.gate: found.get(self.report.gate, float("nan"))} | further
