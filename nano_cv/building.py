"""Builds data, task and learner from a composed configuration."""

import logging
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from nano_cv.config.checks import task_name
from nano_cv.data import pictures
from nano_cv.data.pictures import Pictures, Resized
from nano_cv.data.store import located
from nano_cv.errors import UserError, settings_of
from nano_cv.metadata import (
    Metadata,
    check_classes,
    check_name,
    git_commit,
    read_metadata,
    weights_of,
)

log = logging.getLogger(__name__)
# Keys of `model.task` that the training takes, and not the task itself.
OF_TRAINING = ("optimizer", "warmup_epochs", "layer_decay", "ema_decay")
READ_BY_SET = ("source", "colours", "ignore")  # keys of `data` that `data.dataset` takes over
if TYPE_CHECKING:  # the engines without torch come through here too
    from nano_cv.data.datamodule import DataModule
    from nano_cv.tasks.task import Task
    from nano_cv.training.learner import Learner


def run_folder() -> Path:
    """Where this run writes."""
    return Path(HydraConfig.get().runtime.output_dir)


def sweep_folder() -> Path | None:
    """Folder of this run's sweep, or None."""
    config = HydraConfig.get()
    return Path(config.sweep.dir).absolute() if config.mode == RunMode.MULTIRUN else None


def weights_file(config: DictConfig) -> Path:
    """The weights file: `weights/<model>_<data>.safetensors`, or the one of `weights=`."""
    if config.get("weights"):
        return weights_of(str(config.weights))
    return Path(config.paths.weights) / f"{config.model.name}_{config.data.name}.safetensors"


def why_not_whole(config: DictConfig) -> str | None:
    """Why this training is not to replace the weights of others, such as a limit; or None."""
    return "a run of a sweep" if sweep_folder() else find_limit(config)


def find_limit(config: DictConfig) -> str | None:
    """The setting with which a training sees only a part of its pictures or epochs, or None."""
    whole: dict[str, Any] = {f"limit_{split}_batches": 1.0 for split in ("train", "val")}
    whole |= {"overfit_batches": 0.0, "max_steps": -1, "max_time": None}
    for key, value in whole.items():
        given = config.trainer.get(key, value)
        if given != value or isinstance(given, int) != isinstance(value, int):
            return f"trainer.{key}={given}"
    return None


def again(script: str) -> str:
    """The command of another script for the same data and model."""
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    same = [each for each in given if re.match(r"[+]*(data|model|paths)[.=@]", each)]
    return shlex.join(["python", f"{script}.py", *same])


def make_data(config: DictConfig) -> "DataModule":
    """The DataModule for the task of the model, not yet opened."""
    seen = {"image_size": config.model.image_size, "fit": fit_of(config)}
    augment = config.data.augment
    if augment is not None and "_target_" not in augment:  # only the strength that a model asks for
        seen["augment"] = None
    options: Any = OmegaConf.to_container(config.data, resolve=True)
    own = {key: value for key, value in options.items() if key not in READ_BY_SET}
    return instantiate(own | seen, task=task_name(config), _convert_="all")


def fit_of(config: DictConfig) -> str:
    """How pictures are fitted into the square of the model, see `images.place`."""
    return str(config.model.get("fit", "stretch"))


def make_pictures(config: DictConfig) -> dict[str, Pictures]:
    """The splits of the data set as files; loads no torch."""
    root = located(config.data.root)
    dataset = instantiate(config.data.dataset, _convert_="all")
    return dataset(root=root, task=task_name(config))


def open_splits(
    config: DictConfig, task: str, size: int, cache: str | None, fit: str
) -> tuple[dict[str, Resized], str]:
    """All splits of the data set and its hash, as `pictures.open_splits`; loads no torch."""
    dataset = instantiate(config.data.dataset, _convert_="all")
    return pictures.open_splits(dataset, config.data.root, task, size, cache, fit)


def make_metadata(config: DictConfig, data: "DataModule", run_id: str) -> Metadata:
    """Metadata of the model to be trained on `data`."""
    check_name(f"{config.model.name}_{config.data.name}")
    data.setup()
    check_classes(data.classes)
    return _metadata(config, data.classes, data.data_hash, run_id)


def _metadata(
    config: DictConfig, classes: list[str], data_hash: str = "", run_id: str = ""
) -> Metadata:
    options = network_options(config)
    return Metadata(
        task=task_name(config),
        model=config.model.name,
        data=config.data.name,
        classes=classes,
        image_size=options.pop("image_size"),
        mean=list(config.model.mean),
        std=list(config.model.std),
        fit=fit_of(config),
        network=options,
        data_hash=data_hash,
        git_commit=git_commit(),
        run_id=run_id,
    )


def make_task(config: DictConfig, metadata: Metadata) -> "Task":
    """The task with an untrained network."""
    settings: Any = OmegaConf.to_container(config.model.task, resolve=True)
    own = {key: value for key, value in settings.items() if key not in OF_TRAINING}
    with settings_of(f"model={config.model.name}"):
        return instantiate(own, _partial_=True, _convert_="all")(metadata=metadata)


def make_learner(config: DictConfig, task: "Task") -> "Learner":
    """Lightning module that trains the task with the optimiser of `model.task`."""
    from nano_cv.training.learner import Learner

    settings = config.model.task
    given = {key: settings[key] for key in OF_TRAINING if key in settings}
    with settings_of(f"model={config.model.name}"):
        if "optimizer" in given:  # by itself, so that an error names its full key
            given["optimizer"] = instantiate(settings.optimizer, _convert_="all")
        return Learner(task, **given)


def rehearse(config: DictConfig) -> None:
    """Build trainer and task for two classes, so that wrong settings are refused before data loads.

    Raises:
        UserError: a device, a network, a setting or pretrained weights are missing or do not fit.
    """
    import torch

    from nano_cv.training import fitting

    asked = config.trainer.precision
    precision = "32-true" if asked == "auto" else asked
    fitting.bare_trainer(config, 1, precision, logger=False, enable_progress_bar=False)
    metadata = _metadata(config, ["a", "b"])
    try:
        with torch.device("meta"):  # takes neither time nor memory
            task = make_task(config, metadata)
    except UserError:  # a mistake, or a network that cannot be built there
        task = make_task(config, metadata)
    make_learner(config, task)
    fitting.check_memory(task, 1, min(config.data.train_size or 2**30, metadata.image_size))
    if config.model.get("pretrained"):
        load_pretrained(config, make_task(config, metadata))
    if config.model.get("pretrained") in (True, "imagenet"):
        _compare_statistics(config)


def load_pretrained(config: DictConfig, task: "Task") -> bool:
    """Start from the weights that `model.pretrained` names: `imagenet`, or a file.

    Returns:
        Whether it names any.

    Raises:
        UserError: there are none, or they are those of another network.
    """
    given = config.model.get("pretrained")
    if not given:
        return False
    if given in (True, "imagenet"):
        network: Any = task.network
        if not hasattr(network, "load_pretrained"):
            raise UserError(
                "model.pretrained=imagenet: only networks of timm have ImageNet's weights"
            )
        network.load_pretrained()
        return True
    from safetensors.torch import load_file

    from nano_cv.networks.pretrained import fill
    from nano_cv.tasks import weights

    path = weights_of(str(given))
    metadata = read_metadata(path)
    weights.check_network(metadata, path, config.model.name, network_options(config))
    fill(task.network, load_file(path), len(metadata.classes))
    return True


def _compare_statistics(config: DictConfig) -> None:
    """Warn where the pixels are not normalised as they were when the weights were learnt."""
    import timm

    options = config.model.task.network
    origin = timm.get_pretrained_cfg(options.get("backbone") or options.get("name"))
    for key in ("mean", "std"):
        trained, given = list(getattr(origin, key, ())), list(config.model[key])
        if trained and trained != given:
            log.warning(
                "ImageNet's weights were trained with another normalisation; add model.%s=%s",
                *(key, str(trained).replace(" ", "")),
            )


def trained_task(config: DictConfig, path: Path) -> "Task":
    """The task with the weights of the file at `path`.

    Raises:
        UserError: no such file, damaged, or weights of another network; says what to type.
    """
    from nano_cv.tasks import weights

    metadata = read_metadata(path)
    weights.check_network(metadata, path, config.model.name, network_options(config))
    task = make_task(config, metadata)
    weights.load(task, path)
    return task


def network_options(config: DictConfig) -> dict[str, Any]:
    """Options of the network, apart from the number of classes."""
    options: Any = OmegaConf.to_container(config.model.task.network, resolve=True)
    own = {key: value for key, value in options.items() if not key.startswith("_")}
    return own | {"image_size": config.model.image_size}
