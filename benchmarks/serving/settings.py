"""A repository to measure: one model under many settings, and the design it is compared with."""

import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from google.protobuf.json_format import ParseDict
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks.serving.rounds import Figures
from nano_cv.errors import UserError
from nano_cv.evaluation.bfloat16 import FASTMATH, HINT
from nano_cv.evaluation.opening import find_export
from nano_cv.export.repository import DECODER
from nano_cv.export.triton_config import CONFIG, count_threads, read_config, write_config
from nano_cv.files import locked
from nano_cv.metadata import JPEG

PROTOTYPE = Path(__file__).parent / "prototype" / "model.py"
NORMALISING = ("Cast", "Sub", "Div", "Mul", "Add")


class Setting(NamedTuple):
    """One row of the table: how a model is served."""

    precision: str

    instances: int
    delay_us: int | None  # None: each request is a batch of its own
    threads: int
    batch: int

    @property
    def model(self) -> str:
        """Its name in the repository that is measured."""
        return "_".join(map(str, ("setting", *self)))

    @property
    def words(self) -> str:
        """What it is, for people."""
        delay = "single requests" if self.delay_us is None else f"{self.delay_us} µs"
        served = f"{self.precision}, {self.instances} x {self.threads} threads"
        return f"{served}, {delay}, batch {self.batch}"


def grid(
    precision: str,
    instances: Sequence[int],
    delays: Sequence[int | None],
    threads: Sequence[int | None],
    batches: Sequence[int],
) -> Iterator[Setting]:
    """All combinations; threads of None are cores divided by instances."""
    cores = os.cpu_count() or 1
    for count, delay, thread, batch in itertools.product(instances, delays, threads, batches):
        yield Setting(precision, count, delay, thread or max(1, cores // count), batch)


def default(precision: str, triton: Mapping[str, Any]) -> Setting:
    """The setting that `export_model.py` writes by the options of `configs/pbtxt`."""
    one = (triton["instances"], triton["max_queue_delay_us"], count_threads(triton))
    return Setting(precision, *one, triton["max_batch_size"])


def apply(config: ModelConfig, setting: Setting) -> ModelConfig:
    """The same model, served otherwise."""
    changed = ModelConfig()
    changed.CopyFrom(config)
    changed.max_batch_size = setting.batch
    changed.instance_group[0].count = setting.instances
    if config.backend != "python":  # the twin from JPEG takes each request by itself
        changed.dynamic_batching.max_queue_delay_microseconds = setting.delay_us or 0
        if setting.delay_us is None and not changed.dynamic_batching.ByteSize():
            changed.ClearField("dynamic_batching")  # it had no queue policy
    if "bf16" not in setting.precision:  # float32, to be compared with an export in bfloat16
        for key in {HINT, FASTMATH, "INFERENCE_NUM_THREADS", "NUM_STREAMS"} & {*changed.parameters}:
            del changed.parameters[key]
        if changed.backend == "openvino":
            changed.backend = "onnxruntime"
    key = "INFERENCE_NUM_THREADS" if changed.backend == "openvino" else "intra_op_thread_count"
    changed.parameters[key].string_value = str(setting.threads)
    for warmup in changed.model_warmup:
        warmup.batch_size = min(warmup.batch_size, setting.batch)
    return changed


def best(measured: Mapping[Setting, Figures], p99_limit_ms: float | None) -> Setting:
    """The setting with the highest throughput, of those within the limit.

    Raises:
        UserError: none is within it; says which comes nearest.
    """
    limit = float("inf") if p99_limit_ms is None else p99_limit_ms * 1000
    within = [setting for setting, figures in measured.items() if figures.latency99 <= limit]
    if not within:
        lowest = min(figures.latency99 for figures in measured.values()) / 1000
        raise UserError(f"p99_limit_ms={p99_limit_ms}: the lowest p99 measured is {lowest:.1f} ms")
    return max(within, key=lambda setting: measured[setting].throughput)


def write_best(folder: Path, setting: Setting) -> None:
    """Put `setting` into `config.pbtxt` of the model in `folder`, and of the one from JPEG."""
    with locked(folder.parent.resolve()):  # an export replaces them too
        for file in (folder / CONFIG, folder.with_name(folder.name + JPEG) / CONFIG):
            if file.exists():
                write_config(file, apply(read_config(file), setting))


def lay_out(folder: Path, file: Path, settings: Sequence[Setting], target: Path) -> list[str]:
    """Lay out in `target` the model `file` of `folder` under each setting; returns their names."""
    config = read_config(folder / CONFIG)
    for setting in settings:
        _place(target, setting.model, apply(config, setting), folder, file)
    return [setting.model for setting in settings]


def lay_out_twin(folder: Path, file: Path, setting: Setting, target: Path) -> None:
    """Lay out in `target` the twin of a model, which takes encoded pictures, under a setting."""
    twin, name = folder.with_name(folder.name + JPEG), setting.model + JPEG
    _place(target, name, apply(read_config(twin / CONFIG), setting), twin, file)
    shutil.copy2(DECODER, target / name / "1")


def lay_out_prototype(folder: Path, target: Path) -> list[str]:
    """The design to beat: preprocessing in Python, then the float32 network, both by default."""
    config = read_config(folder / CONFIG)
    network = target / "prototype_network" / "1"
    network.mkdir(parents=True)
    tensor = without_normalisation(find_export(folder, "float32"), network / "model.onnx")
    prepared: dict[str, Any] = {
        "name": tensor,
        "data_type": "TYPE_FP32",
        "dims": list(config.input[0].dims),
    }
    pixels = {"name": "PIXELS", "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]}
    outputs = [
        {"name": one.name, "data_type": one.data_type, "dims": list(one.dims)}
        for one in config.output
    ]
    common: dict[str, Any] = {"max_batch_size": 4}
    instance = {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]}
    delay = {"dynamic_batching": {"max_queue_delay_microseconds": 4000}}
    metadata = {"contract": {"string_value": config.parameters["contract"].string_value}}
    configs: list[dict[str, Any]] = [
        {"name": "prototype_network", "backend": "onnxruntime", **instance, **delay}
        | {"input": [prepared], "output": outputs},
        {"name": "prototype_prepare", "backend": "python", **instance, "parameters": metadata}
        | {"input": [pixels], "output": [prepared]},
        {"name": "prototype", "platform": "ensemble", "input": [pixels], "output": outputs}
        | {
            "ensemble_scheduling": {
                "step": [
                    _step("prototype_prepare", {"PIXELS": "PIXELS"}, {tensor: tensor}),
                    _step(
                        "prototype_network",
                        {tensor: tensor},
                        {one["name"]: one["name"] for one in outputs},
                    ),
                ]
            }
        },
    ]
    for one in configs:
        (target / one["name"] / "1").mkdir(parents=True, exist_ok=True)
        config = ParseDict({**common, **one}, ModelConfig())
        write_config(target / one["name"] / CONFIG, config)
    shutil.copy2(PROTOTYPE, target / "prototype_prepare" / "1" / "model.py")
    return [one["name"] for one in configs]


def without_normalisation(file: Path, target: Path) -> str:
    """Cut the normalisation off an exported model; returns the name of its float32 input."""
    model = onnx.load(file)
    tensor = model.graph.input[0].name
    while True:
        node = next(node for node in model.graph.node if tensor in node.input)
        if node.op_type not in NORMALISING:
            break
        tensor = node.output[0]
    outputs = [output.name for output in model.graph.output]
    onnx.utils.extract_model(str(file), str(target), [tensor], outputs)
    return tensor


def _place(
    target: Path, name: str, config: ModelConfig, source: Path, file: Path | None = None
) -> None:
    version = target / name / "1"
    version.mkdir(parents=True)
    config.name = name
    if file:
        shutil.copy2(file, version / "model.onnx")
    for labels in source.glob("labels*.txt"):
        shutil.copy2(labels, target / name)
    write_config(target / name / CONFIG, config)


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    """A step of an ensemble: names of the model's tensors to names of the ensemble's."""
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": inputs,
        "output_map": outputs,
    }
