"""Builds the data and the task from a composed configuration."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from nano_cv.config.checks import task_name
from nano_cv.data import pictures
from nano_cv.data.pictures import Pictures
from nano_cv.errors import settings_of
from nano_cv.metadata import TAGGING, Metadata, Size, shared_weights, weights_of

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
    if "_target_" not in (options.get("augment") or {}):  # only the strength that a model sets
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


def make_task(config: DictConfig, metadata: Metadata) -> "Task":
    """Make the task with an untrained network."""
    settings: Any = OmegaConf.to_container(config.model.task, resolve=True)
    own = {key: value for key, value in settings.items() if key not in OF_LEARNER}
    if metadata.task == TAGGING:  # the data set decides, see `starting.make_metadata`
        own["_target_"] = "nano_cv.tasks.tagging.Tagging"
    with settings_of(f"model={config.model.name}"):
        return instantiate(own, _partial_=True, _convert_="all")(metadata=metadata)


def answer_options(config: DictConfig) -> dict[str, Any]:
    """Return the options of the task that change the answers of trained weights."""
    keys = ("steps", "guidance", "max_detections", "overlap")
    return {str(key): value for key, value in config.model.task.items() if key in keys}


def network_options(config: DictConfig) -> dict[str, Any]:
    """Return the options of the network, apart from the number of classes and the size."""
    options: Any = OmegaConf.to_container(config.model.task.network, resolve=True)
    return {key: value for key, value in options.items() if not key.startswith("_")}
