"""Every key of the configuration, with its type and the range of its values.

Hydra composes the configuration from `configs/` and the command line. The configuration is checked
against this schema before torch is loaded, so a wrong value is answered in half a second. A new key
needs two entries: in its YAML file, and in the class below named after the class it configures.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from annotated_types import Ge, Gt, Le, Lt, MinLen
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from nano_cv.errors import listing, nearest
from nano_cv.metadata import Fit, Shape, Share, Side

Count = Annotated[int, Ge(1)]
Sides = Annotated[list[Side], Field(min_length=2, max_length=2)]  # height, width
NotNegativeInt = Annotated[int, Ge(0)]
Index = Annotated[int, Ge(0), Le(255)]  # of a class in a mask
Positive = Annotated[float, Gt(0), Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Ge(0), Field(allow_inf_nan=False)]
Seed = Annotated[int, Ge(0), Lt(2**32)]
Name = Annotated[str, MinLen(1)]  # part of the names of files
Host = Annotated[str, Field(pattern=r"^(\[?[0-9a-fA-F:]+\]?|[\w.-]+)$")]  # without a port
Port = Annotated[int, Ge(1), Le(65535)]
Batches = Count | Annotated[float, Gt(0), Le(1)]  # a number of batches, or a share of all batches
Channels = Annotated[list[Count], MinLen(1)]
Pair = Annotated[list[Positive], Field(min_length=2, max_length=2)]
Means = Annotated[list[float], Field(min_length=3, max_length=3)]  # R G B
Deviations = Annotated[list[Positive], Field(min_length=3, max_length=3)]  # R G B


class Section(TypedDict, total=False):
    """Part of the configuration; unknown keys are refused, and known keys may be left out."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]
    _target_: str
    _partial_: bool
    _convert_: str


class Open(TypedDict, total=False):
    """Part of the configuration that takes unknown keys too, such as for a class of your own."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]
    _target_: str


def by_target(*sections: Any) -> Any:
    """Return a union of `sections`, chosen by the class of `_target_`; `Open` for other classes."""
    known = {section.__name__: section for section in sections}

    def name(value: Any) -> str:
        package, _, last = str(value.get("_target_")).rpartition(".")
        return last if package.startswith("nano_cv.") and last in known else Open.__name__

    choices = [Annotated[section, Tag(key)] for key, section in known.items()]
    return Annotated[Union[*choices, Annotated[Open, Tag(Open.__name__)]], Discriminator(name)]


# Data


class Augment(Section):
    """`nano_cv.data.augment.Augment`."""

    flip: Share | None
    degrees: NotNegative
    scale: Pair
    translate: Share
    brightness: NotNegative
    contrast: NotNegative
    saturation: NotNegative
    policy: Literal["trivial", "rand"] | None
    strength: NotNegative


class DataModule(Section):
    """`nano_cv.data.datamodule.DataModule`."""

    name: Name
    tasks: list[str]
    root: str | None
    source: str | None
    colours: dict[str, list[int]] | None
    ignore: Index | list[Index] | None
    separator: str | None
    dataset: Open
    train_size: Side | Sides | None
    crop: Side | Sides | None
    balance: Literal["none", "sqrt", "full"]
    detail: Annotated[float, Ge(1), Le(2)]
    batch_size: Count
    workers: Annotated[int, Ge(0), Le(max(16, 4 * (os.cpu_count() or 1)))]
    cache: str | None
    seed: Seed
    augment: by_target(Augment) | None  # type: ignore[valid-type]


# Networks


class LeNet(Section):
    """`nano_cv.networks.lenet.LeNet`."""

    channels: Channels
    dropout: Share


class ResNet(Section):
    """`nano_cv.networks.resnet.ResNet`."""

    stem: list[Count]
    channels: Channels
    blocks: Channels
    dropout: Share


class Backbone(Section):
    """`nano_cv.networks.backbone.Backbone`."""

    name: str
    dropout: Share
    drop_path: Share
    frozen: NotNegativeInt


class UNet(Section):
    """`nano_cv.networks.unet.UNet`."""

    channels: Channels
    backbone: str | None


class CenterNet(UNet):
    """`nano_cv.networks.centernet.CenterNet`."""

    width: Count


class FlowUNet(Section):
    """`nano_cv.networks.flow_unet.FlowUNet`."""

    channels: Channels
    width: Count


Network = by_target(LeNet, ResNet, Backbone, UNet, CenterNet, FlowUNet)


# Tasks


class Optimizer(Open):
    """A class of `torch.optim`; its other options are torch's."""

    lr: Positive
    weight_decay: NotNegative


class Task(Section):
    """`nano_cv.tasks.task.Task`."""

    network: Network  # type: ignore[valid-type]
    optimizer: Optimizer
    warmup_epochs: NotNegative
    layer_decay: Positive
    ema_decay: Share | None


class Classification(Task):
    """`nano_cv.tasks.classification.Classification`."""

    label_smoothing: Share
    mixup: NotNegative
    cutmix: NotNegative


class Detection(Task):
    """`nano_cv.tasks.detection.Detection`."""

    max_detections: Annotated[int, Ge(1), Le(1_000)]  # limited, as all pairs of boxes are compared
    overlap: Share
    box_weight: NotNegative


class Segmentation(Task):
    """`nano_cv.tasks.segmentation.Segmentation`."""

    dice_weight: NotNegative


class Generation(Task):
    """`nano_cv.tasks.generation.Generation`."""

    steps: Annotated[int, Ge(1), Le(1000)]
    guidance: float
    drop_label: Share


class Model(Section):
    """A file of `configs/model/`."""

    name: Name
    image_size: Side | Sides
    mean: Means | None
    std: Deviations | None
    shape: Shape
    fit: Fit
    pretrained: str | bool | None
    judge: str
    task: by_target(Classification, Detection, Segmentation, Generation)  # type: ignore[valid-type]


# Groups of several scripts


class Trainer(Open):
    """`pytorch_lightning.Trainer`, whose other options may be added with `+trainer.KEY=VALUE`."""

    max_epochs: Annotated[int, Ge(1), Le(1_000_000)] | None
    min_epochs: Annotated[int, Ge(1), Le(1_000_000)]
    min_steps: Annotated[int, Ge(1), Le(1_000_000_000)]
    minutes: Positive | None
    devices: int | str | list[NotNegativeInt]
    num_nodes: Count
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
    sync_batchnorm: bool
    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"]
    gradient_clip_val: NotNegative | None
    limit_train_batches: Batches
    limit_val_batches: Batches
    limit_test_batches: Batches
    log_every_n_steps: NotNegativeInt
    num_sanity_val_steps: int
    deterministic: bool
    patience: NotNegativeInt | None
    prune_after: Count | None
    prune_siblings: Count


class Logger(Section):
    """A file of `configs/logger/`."""

    name: Literal["mlflow", "csv", "none"]
    uri: str
    experiment: str


class Paths(Section):
    """Folders, relative to the folder in which the script was started."""

    runs: str
    weights: str
    models: str
    cache: str | None


class Triton(Section):
    """Settings of `config.pbtxt`."""

    max_batch_size: Count
    instances: Count
    max_queue_delay_us: NotNegativeInt | None
    threads: Count | None
    max_queue_size: Count | None
    queue_timeout_us: Count | None
    decode_instances: Count
    max_picture_bytes: Count
    max_picture_pixels: Count


# Scripts


class Common(Section):
    """Keys of every script with a data set and a model."""

    help: str
    seed: Seed
    data: by_target(DataModule)  # type: ignore[valid-type]
    model: Model
    trainer: Trainer  # in all scripts, as the YAML files of models set the length of a training
    paths: Paths


class Train(Common):
    """train.py."""

    logger: Logger
    resume: bool | str
    test: bool
    coverage: Annotated[float, Gt(0.5), Lt(1)]
    half: bool


class Infer(Common):
    """infer.py."""

    logger: Logger
    engine: Literal["torch", "onnx", "triton"]
    server: str
    input: str | int | None
    labels: str | int | list[str | int] | None
    count: Annotated[int, Ge(1), Le(1_000_000)] | None
    weights: str | None
    confidence: Share | None
    gradcam: bool
    tta: bool


class ExportModel(Common):
    """export_model.py."""

    logger: Logger
    triton: Triton
    weights: str | None
    parity: str | None
    precision: Literal["float32", "int8", "bf16", "int8_bf16", "auto"]
    tolerance: NotNegative
    max_drop: float
    calibration_pictures: Count


class Shard(Common):
    """shard.py."""

    output: str | None
    shard_mb: Positive


class Benchmark(Common):
    """benchmark.py."""

    triton: Triton
    concurrency: Count
    delays_us: Annotated[list[NotNegativeInt | None], MinLen(1)]
    instances: Channels
    threads: Annotated[list[Count | None], MinLen(1)]
    batches: Channels
    seconds: Positive
    min_rounds: Count
    max_rounds: Count
    prototype: bool
    p99_limit_ms: Positive | None
    write: bool


class Serve(Section):
    """serve.py."""

    help: str
    paths: Paths
    models: Annotated[list[str], MinLen(1)] | None
    triton: str | None
    host: str
    hosts: list[Host] | None
    port: Port
    grpc_port: Port
    probe_seconds: Positive
    probe_deadline_seconds: Positive
    poll_seconds: Positive
    exit_timeout_seconds: Positive
    max_request_bytes: Count
    max_picture_pixels: Count
    receive_seconds: Positive
    answer_seconds: Positive
    max_connections: Count


SCRIPTS: dict[str, Any] = {
    "train": Train,
    "infer": Infer,
    "export_model": ExportModel,
    "shard": Shard,
    "benchmark": Benchmark,
    "serve": Serve,
}

MESSAGES = {  # message for each of pydantic's kinds of errors; `{}` is the limit
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "finite_number": "a number is needed",
    "bool_type": "true or false is needed",
    "string_type": "text is needed",
    "string_too_short": "text is needed",
    "string_pattern_mismatch": "a name without https:// and without a port is needed",
    "list_type": "a list is needed",
    "too_short": "a list of {} is needed",
    "too_long": "a list of {} is needed",
    "greater_than": "more than {} is needed",
    "greater_than_equal": "{} or more is needed",
    "less_than": "less than {} is needed",
    "less_than_equal": "{} or less is needed",
}

LIMIT_NAMES = ("gt", "ge", "lt", "le", "min_length", "max_length")


def find_problems(script: str, config: DictConfig, defaults: DictConfig) -> list[str]:
    """Return a message for each wrong key of a composed configuration.

    `seed=-1: 0 or more is needed` is such a message. Some have an example from `defaults`, the
    configuration without typed settings.
    """
    values: Any = OmegaConf.to_container(config, resolve=True)
    reasons: dict[str, list[str]] = {}
    try:
        TypeAdapter(SCRIPTS[script]).validate_python(values)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            path, value = [], values
            # A location has members of unions, which are no keys, and positions in a list, which is
            # shown as a whole.
            for part in fault["loc"]:
                if isinstance(value, dict) and part in value:
                    path.append(str(part))
                    value = value[part]
            section = OmegaConf.select(config, ".".join(path[:-1])) if path[:-1] else config
            # A key that only repeats another key's value is not reported a second time.
            if fault["type"] == "missing" or OmegaConf.is_interpolation(section, path[-1]):
                continue
            key = ".".join(path)
            reason = _explain(path, section, value, fault["type"], fault.get("ctx", {}))
            example = OmegaConf.select(defaults, key)
            if fault["type"].endswith(("_type", "_from_float")) and example is not None:
                reason += f", as in '{path[-1]}={example}'"
            reasons.setdefault(f"{key}={'null' if value is None else value}", []).append(reason)
    return [f"{typed}: {', or '.join(dict.fromkeys(why))}" for typed, why in reasons.items()]


def _explain(path: list[str], above: Any, value: Any, kind: str, limits: Mapping[str, Any]) -> str:
    """Return a message for pydantic's kind of error, such as `1 or more is needed`."""
    if kind == "extra_forbidden":
        others = [name for name in above if name != path[-1] and not name.startswith("_")]
        where = ".".join(path[:-1]) or "the configuration"
        close = nearest(path[-1], others)
        return f"{where} has no '{path[-1]}'{close} Allowed: {listing(others, most=40)}"
    if kind == "literal_error":
        allowed = str(limits["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return f"no such value{nearest(str(value), allowed)} Allowed: {', '.join(allowed)}"
    ends = [str(limit).removesuffix(".0") for name, limit in limits.items() if name in LIMIT_NAMES]
    return MESSAGES.get(kind, "cannot be used").format(*ends)
