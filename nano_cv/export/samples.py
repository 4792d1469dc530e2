"""Opens inputs for the checks of an export: training and validation images, or a generator's."""

import logging
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from nano_cv import building
from nano_cv.data import images
from nano_cv.data.datamodule import DataModule
from nano_cv.data.imagined import Imagined
from nano_cv.data.pictures import evenly
from nano_cv.data.store import located
from nano_cv.errors import UserError
from nano_cv.evaluation import reports
from nano_cv.evaluation.engines import Arrays, Engine, predict_all
from nano_cv.evaluation.evaluate import Inputs, of_test
from nano_cv.evaluation.inputs import find_pictures, open_readable
from nano_cv.evaluation.trained import check_labels
from nano_cv.export import parity
from nano_cv.metadata import Metadata

log = logging.getLogger(__name__)
GENERATED_IMAGES = 16  # to compare; fewer than of other tasks, as each takes longer
BATCH = 16  # images


class Samples:
    """Training and validation splits of a model's data set; refuses a set of other classes."""

    def __init__(self, config: DictConfig, data: DataModule, metadata: Metadata) -> None:
        # Training images are loaded as in a prediction: whole, and not cropped.
        data.train_size, data.crop, data.detail, data.augment = None, None, 1.0, None
        data.image_size, data.fit = metadata.image_size, metadata.fit
        data.setup()
        advice = "export with the data that they were trained on"
        check_labels(config, metadata, data.splits, advice)
        self.metadata = metadata
        self.report = reports.find(metadata.task)
        self.training: Inputs = data.splits["train"]
        self.validation: Inputs = data.splits["val"]
        if metadata.task == "generation":  # the inputs are noise, with the test split's labels
            self.training = self.validation = of_test(config, metadata, data.splits)

    def score(self, engine: Engine) -> dict[str, float]:
        """Return an engine's metrics that decide (more is better), over all validation images.

        The first metric is NaN if it cannot be computed; further metrics are then left out.
        """
        pictures = self.validation.pictures
        predictions = predict_all(engine, self.validation.inputs, len(pictures), BATCH)
        figures = self.report(self.metadata, predictions, pictures).metrics()
        further = {name: figures[name] for name in self.report.further_gates if name in figures}
        return {self.report.gate: figures.get(self.report.gate, float("nan"))} | further


def has_data(config: DictConfig) -> bool:
    """Return whether the data set is on this machine, so that opening it fetches nothing.

    A typed `data.root` or `data.source` counts as here: if it is wrong, opening the set says so.
    """
    if building.find_typed("data[.](root|source)"):
        return True
    root = config.data.root and located(config.data.root)
    if not isinstance(root, Path):  # an object store (counts as here), or no root at all
        return bool(root)
    dataset = config.data.dataset
    if dataset._target_ == "nano_cv.data.known.open_known":
        from nano_cv.data.known import is_fetched  # imported late, as it loads all formats

        return is_fetched(root, dataset.name)
    return root.exists()


def open_samples(config: DictConfig, metadata: Metadata) -> Samples | None:
    """Open the data set of the configuration if it is on this machine or needed; else None.

    A float32 export needs no labels, and so no data set; the gates of other precisions need both.

    Raises:
        UserError: the data set cannot be used, or is needed but missing.
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
            f"precision={config.precision}: its metrics are measured on the labels of "
            f"data={config.data.name}, which is not here; bring it, or use precision=float32, "
            f"which needs no labels ({error})"
        ) from error


def parity_inputs(
    config: DictConfig, metadata: Metadata, samples: Samples | None
) -> tuple[list[str], Arrays]:
    """Return names and arrays of the inputs on which torch and the export are compared.

    The inputs are the images of `parity=`, else of the validation split, else built-in images.
    A generator gets noise, with labels as in the test split or else each class in turn.
    """
    if config.parity is not None:
        files = find_pictures(str(config.parity), "parity")
        files = [files[index] for index in evenly(len(files), parity.MAX_IMAGES)]
        opened, _ = open_readable(files, config, metadata)  # warns of pictures that it leaves out
        names = [str(file) for file in opened.pictures.files]
        return names, opened.inputs(range(len(names)))
    if metadata.task == "generation":
        labels = [number % len(metadata.classes) for number in range(GENERATED_IMAGES)]
        made = Imagined(labels, metadata.classes, metadata.image_size, config.seed)
        known = samples.validation if samples else made
        names = known.pictures.names[:GENERATED_IMAGES]
        return names, known.inputs(range(len(names)))
    if samples:
        known_files = samples.validation.pictures.files
        chosen = evenly(len(known_files), parity.MAX_IMAGES)
        return [known_files[index].name for index in chosen], samples.validation.inputs(chosen)
    drawn = parity.draw_pictures()
    log.warning(
        "%s: no data set here, so torch and the export are compared on %d built-in pictures; "
        "parity=FOLDER compares them on yours",
        *(config.data.root, len(drawn)),
    )
    pixels = [images.load(png, metadata.image_size, fit=metadata.fit) for _, png in drawn]
    return [name for name, _ in drawn], {"IMAGES": np.stack(pixels).transpose(0, 3, 1, 2)}
