"""Engines compute predictions: torch, onnxruntime or a Triton server, behind one interface.

Only `Torch` imports torch. Shapes: B pictures, N of all.
"""

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from nano_cv import building
from nano_cv.data.progress import track
from nano_cv.errors import UserError, one_line
from nano_cv.files import list_versions
from nano_cv.metadata import KEY, Metadata

if TYPE_CHECKING:
    from nano_cv.tasks.task import Task

Arrays = Mapping[str, NDArray[Any]]


class Engine(ABC):
    """A trained model that answers; as a context manager, it is closed at the end.

    Attributes:
        metadata: what the model promises.
        source: where the model comes from, for the summary: a name and a place.
    """

    metadata: Metadata
    source: Mapping[str, Path | str]

    @abstractmethod
    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Inputs of the task's `predict` to its outputs, by name, each `[B, ...]`."""

    def close(self) -> None:  # noqa: B027
        """Close connections; most engines have none."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def predict_all(
    engine: Engine,
    inputs: Callable[[Sequence[int]], Arrays],
    count: int,
    batch_size: int,
    tta: bool = False,
) -> dict[str, NDArray[Any]]:
    """The outputs of an engine for `count` pictures, by name, each `[N, ...]`; run in batches.

    `inputs` makes the inputs of the pictures with the given indices. With `tta`, test-time
    augmentation, the probabilities of a classifier are the mean of those for the picture and for
    its mirror image, and its label set holds the classes of both.
    """
    parts = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    batches = []
    for part in track(parts, len(parts), "Predicting"):
        given = inputs(part)
        answers = engine.predict(given)
        if tta:
            mirrored = engine.predict({"IMAGES": given["IMAGES"][..., ::-1].copy()})
            answers = {
                name: one | mirrored[name] if one.dtype == bool else (one + mirrored[name]) / 2
                for name, one in answers.items()
            }
        batches.append(answers)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


class Torch(Engine):
    """A task in this process, in float32 whatever the training used: so all engines agree.

    `accelerator` is `auto`, `cpu`, `gpu` or `mps`, as for the trainer.

    Raises:
        UserError: this machine has no such accelerator.
    """

    def __init__(self, task: "Task", path: Path, accelerator: str = "auto") -> None:
        self.device = find_device(accelerator)
        self.task = task.to(device=self.device).float().eval()
        self.metadata, self.source = task.metadata, {"weights": path}

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Engine`."""
        import torch

        with torch.inference_mode():
            tensors = [torch.from_numpy(array).to(self.device) for array in inputs.values()]
            outputs = self.task.predict(*tensors)
            return {name: output.cpu().numpy() for name, output in outputs.items()}


class Onnx(Engine):
    """An exported file in onnxruntime, on the processor.

    With 0 `threads` onnxruntime takes all cores. `entries` are session config entries by key.

    Raises:
        UserError: no such file, damaged, or not written by export_model.py.
    """

    def __init__(self, path: Path, threads: int = 0, entries: Mapping[str, str] | None = None):
        import onnxruntime

        if not path.is_file():
            raise UserError(f"{path}: no such file")
        if path.suffix == ".safetensors":
            raise UserError(f"{path}: weights for engine=torch; engine=onnx takes a model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        for key, value in (entries or {}).items():
            options.add_session_config_entry(key, value)
        providers = ["CPUExecutionProvider"]
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # whatever damage does to a model file
            raise UserError(f"{path}: onnxruntime cannot load it ({one_line(error)})") from error
        facts = self.session.get_modelmeta().custom_metadata_map
        self.precision = facts.get("precision", "float32")
        try:
            self.metadata = Metadata.from_json(facts.get(KEY, ""))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}: holds no metadata; export_model.py did not write this file"
            ) from error
        self.source = {"model": path}

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Engine`."""
        names = [output.name for output in self.session.get_outputs()]
        given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        return dict(zip(names, self.session.run(names, given), strict=True))


class Triton(Engine):
    """A model on a Triton server, whose gRPC has the `address` HOST:PORT.

    Raises:
        UserError: no server there, no such model, or a model without metadata.
    """

    def __init__(self, name: str, address: str) -> None:
        from nano_cv.evaluation.client import Client, ServerError

        self.name, self.client = name, Client(address)
        try:
            self.metadata = self.client.metadata(name)
        except ServerError as error:
            self.close()
            text = str(error).removeprefix(f"{address}: ")
            raise UserError(f"server={address}: {text}") from error
        self.source = {"model": f"{name} at {address}"}

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Engine`."""
        return self.client.infer(self.name, inputs)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


def make_engine(config: DictConfig) -> Engine:
    """Make the engine named by `engine=torch|onnx|triton`.

    Raises:
        UserError: the model is not there, or is not the one asked for; says what to type.
    """
    if config.gradcam and config.engine != "torch":
        raise UserError("gradcam=true: only torch can look into a network; add engine=torch")
    name = f"{config.model.name}_{config.data.name}"
    if config.engine == "torch":
        path = building.weights_file(config)
        return Torch(building.trained_task(config, path), path, config.trainer.accelerator)
    if config.engine == "triton":
        if config.weights:
            raise UserError("weights= has no meaning with engine=triton: the server has its own")
        return Triton(name, config.server)
    given = config.weights and Path(str(config.weights)).expanduser()
    path = given or find_export(Path(config.paths.models) / name)
    engine = Onnx(path)
    if engine.metadata.model != config.model.name:
        raise UserError(
            f"{path}: a model={engine.metadata.model}, not a model={config.model.name}; "
            f"type +model={engine.metadata.model}"
        )
    return engine


def find_export(folder: Path, precision: str | None = None) -> Path:
    """The ONNX file of the newest version of an exported model, in any or in a given precision.

    Raises:
        UserError: the folder of the model has no such version; says what to type.
    """
    for version in reversed(list_versions(folder)):
        file = folder / str(version) / "model.onnx"
        if not file.exists():
            continue
        if precision is None or Onnx(file).precision == precision:
            return file
    command = building.again("export_model")
    if precision:
        raise UserError(
            f"{folder}: no exported model in {precision}; type: {command} precision={precision}"
        )
    raise UserError(f"{folder}: no exported model; to make one, type: {command}")


def processor_flags() -> set[str]:
    """What this processor can do, by the names of Linux."""
    if (platform.system(), platform.machine()) == ("Darwin", "arm64"):
        return {"asimddp"}  # as all of Apple's since the M1
    cpuinfo = Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


def find_device(accelerator: str) -> Any:
    """The torch device of this machine for `auto`, `cpu`, `gpu` or `mps`."""
    import torch

    have = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    wanted = {"auto": ("cuda", "mps", "cpu"), "gpu": ("cuda", "mps")}.get(
        accelerator, (accelerator,)
    )
    for name in wanted:
        if have.get(name, name == "cpu"):
            return torch.device(name)
    raise UserError(f"trainer.accelerator={accelerator}: this machine has none; leave it out")
