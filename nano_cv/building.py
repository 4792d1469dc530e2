"""Builds the data, the task and the learner from a composed configuration."""

import json
import logging
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from nano_cv.config.checks import task_name
from nano_cv.config.processes import check_started
from nano_cv.data import pictures
from nano_cv.data.pictures import Pictures, Resized
from nano_cv.data.targets import are_tags
from nano_cv.errors import UserError, listing, settings_of
from nano_cv.metadata import (
    TAGGING,
    Metadata,
    Size,
    check_classes,
    git_commit,
    height_width,
    read_metadata,
    shared_weights,
    weights_of,
)

log = logging.getLogger(__name__)
# Keys of `model.task` for the learner, which the task itself does not take.
OF_LEARNER = ("optimizer", "warmup_epochs", "layer_decay", "ema_decay")
LOOKED_AT = 10_000  # training pictures whose objects are counted for a hint
UNEQUAL = 10  # times as many training pictures of a class as of another, from which a hint is given
if TYPE_CHECKING:  # these import torch, and engines without torch use this module too
    from nano_cv.data.datamodule import DataModule
    from nano_cv.tasks.task import Task
    from nano_cv.training.learner import Learner


def run_folder() -> Path:
    """Return the folder that this run writes to."""
    return Path(HydraConfig.get().runtime.output_dir)


def sweep_folder() -> Path | None:
    """Return the folder of the sweep that this run belongs to, or None."""
    config = HydraConfig.get()
    return Path(config.sweep.dir).absolute() if config.mode == RunMode.MULTIRUN else None


def weights_file(config: DictConfig) -> Path:
    """Return the weights file: `weights=` or `weights/<model>_<data>.safetensors`."""
    if config.get("weights"):
        return weights_of(str(config.weights))
    return shared_weights(config.paths.weights, config.model.name, config.data.name)


def find_limit(config: DictConfig) -> str | None:
    """Return the first setting that cuts a training short, such as a limit of batches, or None."""
    whole: dict[str, Any] = {f"limit_{split}_batches": 1.0 for split in ("train", "val")}
    whole |= {"overfit_batches": 0.0, "max_steps": -1, "max_time": None}
    for key, value in whole.items():
        current = config.trainer.get(key, value)
        if current != value or isinstance(current, int) != isinstance(value, int):
            return f"trainer.{key}={current}"
    return None


def find_typed(keys: str) -> list[str]:
    """Return the settings that were typed on the command line, of keys that fit a pattern."""
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return [override for override in typed if re.match(rf"[+]*({keys})[.=@]", override)]


def make_data(config: DictConfig) -> "DataModule":
    """Make the DataModule for the task of the model, not yet opened."""
    seen: dict[str, Any] = {
        "image_size": size_of(config),
        "shape": config.model.get("shape", "square"),
        "fit": fit_of(config),
    }
    augment = config.data.augment
    if augment is not None and "_target_" not in augment:  # only the strength that a model sets
        seen["augment"] = None
    options: Any = OmegaConf.to_container(config.data, resolve=True)
    for key in ("source", "colours", "ignore", "separator"):  # for the function `data.dataset`
        options.pop(key, None)
    return instantiate(options | seen, task=task_name(config), _convert_="all")


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


def make_metadata(config: DictConfig, data: "DataModule", run_id: str) -> Metadata:
    """Make the metadata of the model that will be trained on `data`."""
    data.setup()
    check_classes(data.classes)
    made = describe_model(config, data.classes, data.image_size, data.data_hash, run_id)
    if are_tags(data.splits["train"].pictures.targets):
        return replace(made, task=TAGGING, thresholds=[0.5] * len(data.classes))
    return made


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


def describe_model(
    config: DictConfig, classes: list[str], size: Size, data_hash: str = "", run_id: str = ""
) -> Metadata:
    """Make the metadata of the configured model for such classes, without the data set."""
    mean, std = statistics_of(config)
    return Metadata(
        task=task_name(config),
        model=config.model.name,
        data=config.data.name,
        classes=classes,
        image_size=size,
        mean=mean,
        std=std,
        fit=fit_of(config),
        network=network_options(config),
        answer_options=answer_options(config),
        data_hash=data_hash,
        git_commit=git_commit(),
        run_id=run_id,
        pretrained=describe_pretrained(config),
    )


def describe_pretrained(config: DictConfig) -> str:
    """Describe the weights that a training starts from, with licence; "" for random weights."""
    pretrained = config.model.get("pretrained")
    if not pretrained:
        return ""
    if pretrained not in (True, "imagenet"):
        metadata = read_metadata(weights_of(str(pretrained)))
        before = metadata.pretrained or "random weights"
        return f"the weights of {metadata.name}, which started from {before}"
    name, origin = _of_timm(config)
    licence = (origin.license if origin else None) or "not stated by timm"
    return f"the ImageNet weights of timm's {name} (licence: {licence})"


def _of_timm(config: DictConfig) -> tuple[str, Any]:
    """Return the name of a model's timm network, and timm's description of its weights."""
    import timm

    options = config.model.task.network
    name = options.get("backbone") or options.get("name") or ""
    return name, timm.get_pretrained_cfg(name)


def statistics_of(config: DictConfig) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of pixels (R G B in 0..1) as the network expects them.

    If the model gives none, they are the values of the timm network's training on ImageNet.
    """
    mean, std = config.model.get("mean"), config.model.get("std")
    if mean is None or std is None:
        from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        _, origin = _of_timm(config)
        mean = mean or (origin.mean if origin else IMAGENET_DEFAULT_MEAN)
        std = std or (origin.std if origin else IMAGENET_DEFAULT_STD)
    return [float(value) for value in mean], [float(value) for value in std]


def make_task(config: DictConfig, metadata: Metadata) -> "Task":
    """Make the task with an untrained network."""
    settings: Any = OmegaConf.to_container(config.model.task, resolve=True)
    own = {key: value for key, value in settings.items() if key not in OF_LEARNER}
    if metadata.task == TAGGING:  # the data set decides, see `make_metadata`
        own["_target_"] = "nano_cv.tasks.tagging.Tagging"
    with settings_of(f"model={config.model.name}"):
        return instantiate(own, _partial_=True, _convert_="all")(metadata=metadata)


def weigh_classes(task: "Task", data: "DataModule") -> None:
    """Give rare classes more weight in the loss, as `data.balance` says, and log the weights.

    Then macro F1 chooses the best epoch of a classifier, in which rare classes count as much.
    """
    task.class_weights = data.class_weights()
    if task.class_weights is not None:
        task.monitor = task.monitor.replace("accuracy", "f1")
        order = task.class_weights.argsort(descending=True).tolist()
        shown = (f"{data.classes[index]} {task.class_weights[index]:.2f}" for index in order)
        text = "data.balance=%s: weights in the loss: %s; %s chooses the best epoch"
        log.info(text, data.balance, listing(shown), task.monitor)


def hint_at_counts(task: "Task", data: "DataModule") -> None:
    """Log which setting helps where classes are very unequal, or objects are very many."""
    train = data.splits["train"]
    if task.monitor == "val/accuracy":
        pairs = zip(train.count(), data.classes, strict=True)
        known = sorted((count, name) for count, name in pairs if count)
        (fewest, rare), (most, common) = known[0], known[-1]
        if most >= UNEQUAL * fewest:
            text = "%s: %d training pictures, %s: %d; data.balance=sqrt makes rare ones count more"
            log.info(text, common, most, rare, fewest)
    if limit := getattr(task, "max_detections", None):
        looked_at = pictures.evenly(len(train), LOOKED_AT)
        largest = max(len(train.pictures.targets[index].counted) for index in looked_at)
        more = min(-(-largest // 100) * 100, 1000)  # as many as the schema allows
        if min(largest, more) > limit:
            text = "a training picture has %d objects, and %d are found at most; for more, add %s"
            log.warning(text, largest, limit, f"model.task.max_detections={more}")


def make_learner(config: DictConfig, task: "Task") -> "Learner":
    """Make the Lightning module that trains the task with the optimiser of `model.task`."""
    from nano_cv.training.learner import Learner

    settings = config.model.task
    arguments = {key: settings[key] for key in OF_LEARNER if key in settings}
    with settings_of(f"model={config.model.name}"):
        if "optimizer" in arguments:  # separately, so that an error has its full key
            arguments["optimizer"] = instantiate(settings.optimizer, _convert_="all")
        return Learner(task, **arguments)


def check_settings(config: DictConfig) -> int:
    """Build trainer and task for two classes, to refuse wrong settings before the data loads.

    Returns the number of processes that will train.

    Raises:
        UserError: a device, a network, a setting or pretrained weights are missing or do not fit.
    """
    import torch

    from nano_cv.data.datamodule import smaller
    from nano_cv.training import fitting

    asked = config.trainer.precision
    precision = "32-true" if asked == "auto" else asked
    trainer = fitting.bare_trainer(config, 1, precision, logger=False, enable_progress_bar=False)
    check_started(trainer.num_devices, trainer.num_nodes)
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if config.trainer.sync_batchnorm and on_cpu and trainer.world_size > 1:
        raise UserError("trainer.sync_batchnorm=true: is for GPUs; leave it out on a processor")
    metadata = describe_model(config, ["a", "b"], size_of(config))
    try:
        with torch.device("meta"):  # takes neither time nor memory
            task = make_task(config, metadata)
    except UserError:  # a wrong setting, or a network that cannot be built on "meta"
        task = make_task(config, metadata)
    make_learner(config, task)
    seen = smaller(config.data.crop, smaller(config.data.train_size, metadata.image_size))
    fitting.check_memory(task, 1, seen)
    if config.model.get("pretrained"):
        load_pretrained(config, make_task(config, metadata))
    return trainer.world_size


def load_pretrained(config: DictConfig, task: "Task") -> bool:
    """Fill the task with the weights that `model.pretrained` names: `imagenet`, or a file.

    Returns whether `model.pretrained` names any weights.

    Raises:
        UserError: there are no such weights, or they belong to another network.
    """
    pretrained = config.model.get("pretrained")
    if not pretrained:
        return False
    if pretrained in (True, "imagenet"):
        network: Any = task.network
        if not hasattr(network, "load_pretrained"):
            raise UserError(
                "model.pretrained=imagenet: only networks of timm have ImageNet's weights"
            )
        network.load_pretrained()
        return True
    from nano_cv.networks.pretrained import fill
    from nano_cv.tasks import weights

    path = weights_of(str(pretrained))
    metadata = read_metadata(path)
    check_network(config, metadata, path, ("backbone", "name"))  # of equal shapes, others may pad
    try:
        fill(task.network, weights.network_tensors(path), len(metadata.classes))
    except UserError:
        check_network(config, metadata, path)  # says which option is another one
        raise
    return True


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
