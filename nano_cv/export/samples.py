"""Inputs to measure an export with: odd, training and validation pictures, or noise."""

import logging
import re
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from nano_cv import building
from nano_cv.data.datamodule import DataModule
from nano_cv.data.imagined import Imagined
from nano_cv.data.store import File, located
from nano_cv.errors import UserError
from nano_cv.evaluation import reports
from nano_cv.evaluation.engines import Arrays, Engine, predict_all
from nano_cv.evaluation.inputs import Inputs, find_pictures, of_test
from nano_cv.export import parity
from nano_cv.metadata import Metadata

log = logging.getLogger(__name__)
COMPARED = 16  # generated pictures, which cost more than others
BATCH = 16  # pictures


class Samples:
    """Inputs of a model from the data that it was trained on, with labels.

    Raises:
        UserError: the data has other classes than the model.
    """

    def __init__(self, config: DictConfig, data: DataModule, metadata: Metadata) -> None:
        # Also those of the training split are for the trained model.
        data.train_size, data.crop, data.detail = None, None, 1.0
        data.image_size = metadata.image_size
        data.setup()
        advice = "export with the data that they were trained on"
        building.check_labels(config, metadata, data.splits, advice)
        self.metadata = metadata
        self.report = reports.find(metadata.task)
        self.training: Inputs = data.splits["train"]
        self.validation: Inputs = data.splits["val"]
        if metadata.task == "generation":  # its own noise, and labels as in the test split
            self.training = self.validation = of_test(config, metadata, data.splits)[0]

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


def has_data(config: DictConfig) -> bool:
    """Whether the data set is here, so that nothing need be fetched to open it.

    A place that was typed counts as here: a slip in it is for the data set to say.
    """
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    if any(re.match(r"[+]*data[.](root|source)=", each) for each in typed):
        return True
    root = config.data.root and located(config.data.root)
    if not isinstance(root, Path):  # a store on the net, or no place at all
        return bool(root)
    dataset = config.data.dataset
    if dataset._target_ == "nano_cv.data.known.open_known":
        from nano_cv.data.known import is_fetched  # and all formats with it

        return is_fetched(root, dataset.name)
    return root.exists()


def open_samples(config: DictConfig, metadata: Metadata) -> Samples | None:
    """The data set of the configuration, where it is here or needed; else None.

    A float32 export needs no labels, and so no data set; the gates of other precisions do.

    Raises:
        UserError: the data set cannot be used, or is needed and not here.
    """
    if metadata.task == "generation" and config.parity is not None:
        raise UserError(f"parity={config.parity}: a generator takes no pictures; leave it out")
    here, plain = has_data(config), config.precision == "float32"
    if plain and (config.parity is not None or not here):
        return None
    try:
        return Samples(config, building.make_data(config), metadata)
    except UserError as error:
        if here:
            raise
        raise UserError(
            f"precision={config.precision}: what it loses is measured on the labels of "
            f"data={config.data.name}, which is not here; bring it, or use precision=float32, "
            f"which needs none ({error})"
        ) from error


def parity_inputs(
    config: DictConfig, metadata: Metadata, samples: Samples | None
) -> tuple[list[str], Arrays]:
    """Inputs to compare torch and the export on, with their names.

    They are the pictures of `parity`, else those of the validation split, else built-in ones. A
    generator gets noise, and labels as in the test split or each of its classes in turn.
    """
    size = metadata.image_size
    pictures: list[tuple[str, File | bytes]]
    if config.parity is not None:
        files = find_pictures(str(config.parity), "parity")
        pictures = [(str(file), file) for file in files]
    elif samples and not isinstance(samples.validation, Imagined):
        pictures = [(file.name, file) for file in samples.validation.pictures.files]
    elif metadata.task == "generation":
        known = samples.validation if samples else None
        if not isinstance(known, Imagined):
            labels = [number % len(metadata.classes) for number in range(COMPARED)]
            known = Imagined(labels, metadata.classes, size, config.seed)
        names = known.names[:COMPARED]
        return names, known.inputs(range(len(names)))
    else:
        pictures = list(parity.draw_pictures())
        log.warning(
            "%s: no data set here, so torch and the export are compared on %d built-in pictures; "
            "parity=FOLDER compares them on yours",
            *(config.data.root, len(pictures)),
        )
    return parity.load_odd(pictures, size, metadata.fit)
