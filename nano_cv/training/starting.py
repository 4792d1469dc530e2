"""Prepares a training: checks its settings, makes metadata and learner, loads first weights."""

import logging
from dataclasses import replace
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from nano_cv import building
from nano_cv.config.checks import task_name
from nano_cv.config.processes import check_started
from nano_cv.data.datamodule import DataModule, smaller
from nano_cv.data.pictures import evenly
from nano_cv.data.targets import are_tags
from nano_cv.errors import UserError, listing, settings_of
from nano_cv.metadata import (
    TAGGING,
    Metadata,
    Size,
    check_classes,
    git_commit,
    read_metadata,
    weights_of,
)
from nano_cv.tasks import weights
from nano_cv.tasks.task import Task
from nano_cv.training import fitting
from nano_cv.training.learner import Learner

LOOKED_AT = 10_000  # training pictures whose objects are counted for a hint
UNEQUAL = 10  # times as many training pictures of a class as of another, from which a hint is given
log = logging.getLogger(__name__)


def check_settings(config: DictConfig) -> int:
    """Build trainer and task for two classes, to refuse wrong settings before the data loads.

    Returns the number of processes that will train.

    Raises:
        UserError: a device, a network, a setting or pretrained weights are missing or do not fit.
    """
    asked = config.trainer.precision
    precision = "32-true" if asked == "auto" else asked
    trainer = fitting.bare_trainer(config, 1, precision, logger=False, enable_progress_bar=False)
    check_started(trainer.num_devices, trainer.num_nodes)
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if config.trainer.sync_batchnorm and on_cpu and trainer.world_size > 1:
        raise UserError("trainer.sync_batchnorm=true: is for GPUs; leave it out on a processor")
    metadata = describe_model(config, ["a", "b"], building.size_of(config))
    try:
        with torch.device("meta"):  # takes neither time nor memory
            task = building.make_task(config, metadata)
    except UserError:  # a wrong setting, or a network that cannot be built on "meta"
        task = building.make_task(config, metadata)
    make_learner(config, task)
    seen = smaller(config.data.crop, smaller(config.data.train_size, metadata.image_size))
    fitting.check_memory(task, 1, seen)
    if config.model.get("pretrained"):
        load_pretrained(config, building.make_task(config, metadata))
    return trainer.world_size


def make_metadata(config: DictConfig, data: DataModule, run_id: str) -> Metadata:
    """Make the metadata of the model that will be trained on `data`."""
    data.setup()
    check_classes(data.classes)
    made = describe_model(config, data.classes, data.image_size, data.data_hash, run_id)
    made = replace(made, mirrored=bool(data.augment) and getattr(data.augment, "flip", 1) != 0)
    if are_tags(data.splits["train"].pictures.targets):
        return replace(made, task=TAGGING, thresholds=[0.5] * len(data.classes))
    return made


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
        fit=building.fit_of(config),
        network=building.network_options(config),
        answer_options=building.answer_options(config),
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


def load_pretrained(config: DictConfig, task: Task) -> bool:
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
    # Imported late, as `pretrained` loads timm, and trainings from random weights need neither.
    from nano_cv.evaluation.trained import check_network
    from nano_cv.networks.pretrained import fill

    path = weights_of(str(pretrained))
    metadata = read_metadata(path)
    # A network of another name may have weights of equal shapes, and pad in another way.
    check_network(config, metadata, path, ("backbone", "name"))
    try:
        fill(task.network, weights.network_tensors(path), len(metadata.classes))
    except UserError:
        check_network(config, metadata, path)  # says which option is another one
        raise
    return True


def weigh_classes(task: Task, data: DataModule) -> None:
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


def hint_at_counts(task: Task, data: DataModule) -> None:
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
        looked_at = evenly(len(train), LOOKED_AT)
        largest = max(len(train.pictures.targets[index].counted) for index in looked_at)
        more = min(-(-largest // 100) * 100, 1000)  # as many as the schema allows
        if min(largest, more) > limit:
            text = "a training picture has %d objects, and %d are found at most; for more, add %s"
            log.warning(text, largest, limit, f"model.task.max_detections={more}")


def find_limit(config: DictConfig) -> str | None:
    """Return the first setting that cuts a training short, such as a limit of batches, or None."""
    whole: dict[str, Any] = {f"limit_{split}_batches": 1.0 for split in ("train", "val")}
    whole |= {"overfit_batches": 0.0, "max_steps": -1, "max_time": None}
    for key, value in whole.items():
        current = config.trainer.get(key, value)
        if current != value or isinstance(current, int) != isinstance(value, int):
            return f"trainer.{key}={current}"
    return None


def make_learner(config: DictConfig, task: Task) -> Learner:
    """Make the Lightning module that trains the task with the optimiser of `model.task`."""
    settings = config.model.task
    arguments = {key: settings[key] for key in building.OF_LEARNER if key in settings}
    with settings_of(f"model={config.model.name}"):
        if "optimizer" in arguments:  # separately, so that an error has its full key
            arguments["optimizer"] = instantiate(settings.optimizer, _convert_="all")
        return Learner(task, **arguments)
