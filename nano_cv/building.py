"""Builds the data and the task from a composed configuration."""

import json
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from nano_cv.config.checks import task_name
from nano_cv.data import pictures
from nano_cv.data.pictures import Pictures, Resized
from nano_cv.data.targets import are_tags
from nano_cv.errors import UserError, listing, settings_of
from nano_cv.metadata import (
    TAGGING,
    Metadata,
    Size,
    height_width,
    read_metadata,
    shared_weights,
    weights_of,
)

# Keys of `model.task` for the learner, which the task itself does not take.
OF_LEARNER = ("optimizer", "warmup_epochs", "layer_decay", "ema_decay")
if TYPE_CHECKING:  # these import torch, and engines without torch use this module too
    from nano_cv.data.datamodule import DataModule
    from nano_cv.tasks.task import Task


def run_folder() -> Path:
    """Return the folder that this run writes to."""
    return Path(HydraConfig.get().runtime.output_dir)


def weights_file(config: DictConfig) -> Path:
    """Return the weights file: `weights=` or `weights/<model>_<data>.safetensors`."""
    if config.get("weights"):
        return weights_of(str(config.weights))
    return shared_weights(config.paths.weights, config.model.name, config.data.name)


def find_typed(keys: str) -> list[str]:
    """Return the settings that were typed on the command line, of keys that fit a pattern."""
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return [override for override in typed if re.match(rf"[+]*({keys})[.=@]", override)]


def make_data(config: DictConfig) -> "DataModule":
    """Make the DataModule for the task of the model, not yet opened."""
    options: Any = OmegaConf.to_container(config.data, resolve=True)
    for key in ("source", "colours", "ignore", "separator"):  # for the function `data.dataset`
        options.pop(key, None)
    if "_target_" not in (options["augment"] or {}):  # only the strength that a model sets
        options["augment"] = None
    options |= {"task": task_name(config), "image_size": size_of(config), "fit": fit_of(config)}
    return instantiate(options, shape=config.model.get("shape", "square"), _convert_="all")


def size_of(config: DictConfig) -> Size:
    """Return the side of the model's input in pixels, or height and width."""
    size = config.model.image_size
    return int(size) if isinstance(size, int) else list(size)


def fit_of(config: DictConfig) -> str:
    """Return how images are fitted into the input of the model, see `images.place`."""
    return str(config.model.get("fit", "stretch"))


def open_pictures(config: DictConfig) -> dict[str, Pictures]:
    """Return the splits of the data set as files; see `pictures.open_pictures`; no torch."""
    dataset = instantiate(config.data.dataset, _convert_="all")
    return pictures.open_pictures(dataset, config.data.root, task_name(config))


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


def make_task(config: DictConfig, metadata: Metadata) -> "Task":
    """Make the task with an untrained network."""
    settings: Any = OmegaConf.to_container(config.model.task, resolve=True)
    own = {key: value for key, value in settings.items() if key not in OF_LEARNER}
    if metadata.task == TAGGING:  # the data set decides, see `make_metadata`
        own["_target_"] = "nano_cv.tasks.tagging.Tagging"
    with settings_of(f"model={config.model.name}"):
        return instantiate(own, _partial_=True, _convert_="all")(metadata=metadata)


def trained_task(config: DictConfig, path: Path) -> "Task":
    """Make the task and fill it with the weights of the file at `path`.

    Raises:
        UserError: the file is missing, damaged, or has the weights of another network.
    """
    from nano_cv.tasks import weights

    metadata = replace(read_metadata(path), answer_options=answer_options(config))
    check_network(config, metadata, path)
    check_pixels(config, metadata, path)
    task = make_task(config, metadata)
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
    asked = size_of(config)
    rows, columns = height_width(metadata.image_size)
    # With `shape: pictures`, the configured side only sets the number of pixels.
    pixels = [(rows + half) * (columns + half) for half in (-pictures.STEP / 2, pictures.STEP / 2)]
    about = isinstance(asked, int) and pixels[0] <= asked**2 <= pixels[1]
    shaped = config.model.get("shape") == "pictures"
    size = metadata.image_size if shaped and about else asked
    options = network_options(config) | {"image_size": size}
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
        if find_typed(f"model[.]{key}") and asked not in (None, value):  # None: as trained
            text = str(value).replace(" ", "")
            raise UserError(f"{path}: trained with another {key}; type 'model.{key}={text}'")


def answer_options(config: DictConfig) -> dict[str, Any]:
    """Return the options of the task that change the answers of trained weights."""
    keys = ("steps", "guidance", "max_detections", "overlap")
    return {str(key): value for key, value in config.model.task.items() if key in keys}


def network_options(config: DictConfig) -> dict[str, Any]:
    """Return the options of the network, apart from the number of classes and the size."""
    options: Any = OmegaConf.to_container(config.model.task.network, resolve=True)
    return {key: value for key, value in options.items() if not key.startswith("_")}
