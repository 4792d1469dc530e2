"""Opens the weights of a trained model, and refuses those of another model or of other classes."""

import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from nano_cv import building
from nano_cv.data.pictures import STEP, Resized
from nano_cv.data.targets import are_tags
from nano_cv.errors import UserError, listing
from nano_cv.metadata import TAGGING, Metadata, height_width, read_metadata

if TYPE_CHECKING:  # it imports torch, which engines of exported models do without
    from nano_cv.tasks.task import Task


def trained_task(config: DictConfig, path: Path) -> "Task":
    """Make the task and fill it with the weights of the file at `path`.

    Raises:
        UserError: the file is missing, damaged, or has the weights of another network.
    """
    from nano_cv.tasks import weights

    metadata = replace(read_metadata(path), answer_options=building.answer_options(config))
    check_network(config, metadata, path)
    check_pixels(config, metadata, path)
    task = building.make_task(config, metadata)
    weights.load(task, path)
    return task


def check_network(
    config: DictConfig, metadata: Metadata, path: Path | str, keys: Collection[str] | None = None
) -> None:
    """Refuse a trained model, which lies at `path`, of another network than the configured one.

    `keys` are the options of the network to compare; None: all. The message says what to type.
    """
    name, trained = config.model.name, metadata.network | {"image_size": metadata.image_size}
    if metadata.model != name:
        raise UserError(
            f"{path}: a model={metadata.model}, not a model={name}; "
            f"type +model={metadata.model}, or train: python train.py +model={name}"
        )
    asked = building.size_of(config)
    rows, columns = height_width(metadata.image_size)
    # With `shape: pictures`, the configured side only sets the number of pixels.
    pixels = [(rows + half) * (columns + half) for half in (-STEP / 2, STEP / 2)]
    about = isinstance(asked, int) and pixels[0] <= asked**2 <= pixels[1]
    shaped = config.model.get("shape") == "pictures"
    size = metadata.image_size if shaped and about else asked
    options = building.network_options(config) | {"image_size": size}
    overrides = [
        f"model.{'' if key == 'image_size' else 'task.network.'}{key}={json.dumps(value)}"
        for key, value in trained.items()
        if options.get(key) != value and (keys is None or key in keys)
    ]
    if overrides:
        raise UserError(
            f"{path}: trained with other options of {name}; add: {shlex.join(overrides)}"
        )


def check_pixels(config: DictConfig, metadata: Metadata, path: Path | str) -> None:
    """Refuse a typed `model.fit`, `mean` or `std` that is not that of the trained model."""
    for key in ("fit", "mean", "std"):
        value, asked = getattr(metadata, key), config.model.get(key)
        if building.find_typed(f"model[.]{key}") and asked not in (None, value):  # None: as trained
            text = str(value).replace(" ", "")
            raise UserError(f"{path}: trained with another {key}; type 'model.{key}={text}'")


def check_labels(
    config: DictConfig, metadata: Metadata, splits: Mapping[str, Resized], advice: str
) -> None:
    """Refuse a data set with other classes than the weights, or with another number per picture."""
    data, many = splits["train"].pictures, ("one label per picture", "several labels per picture")
    known, has = listing(metadata.classes), listing(data.classes)
    if metadata.classes == data.classes:
        known, has = many[metadata.task == TAGGING], many[are_tags(data.targets)]
    if metadata.classes != data.classes or known != has:
        raise UserError(
            f"the weights know {known}, and data={config.data.name} has {has}; {advice}"
        )
