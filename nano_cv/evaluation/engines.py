"""What computes the predictions: torch, onnxruntime or a Triton server, behind one interface.

Only `Torch` imports torch. Shapes: B pictures.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from nano_cv import building
from nano_cv.errors import UserError, one_line
from nano_cv.metadata import Metadata

if TYPE_CHECKING:
    from nano_cv.tasks.task import Task

Arrays = Mapping[str, NDArray[Any]]


class Engine(ABC):
    """A trained model that can be asked; as a context, it lets go of what it holds.

    Attributes:
        metadata: what the model promises.
        source: where it comes from, for the summary: a name and a place.
    """

    metadata: Metadata
    source: Mapping[str, Path | str]

    @abstractmethod
    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Inputs of the task's `predict` to its outputs, by name, each `[B, ...]`."""

    def close(self) -> None:  # noqa: B027
        """Let go; most engines hold nothing."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Torch(Engine):
    """A task in this process; in float32 whatever the training used, so that all engines agree.

    Args:
        task: with its weights.
        path: of the weights file.
        accelerator: `auto`, `cpu`, `gpu` or `mps`, as for the trainer.

    Raises:
        UserError: this machine has no such accelerator.
    """

    def __init__(self, task: "Task", path: Path, accelerator: str = "auto") -> None:
        self.task = task.to(device=find_device(accelerator)).float().eval()
        self.metadata, self.source = task.metadata, {"weights": path}

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Engine`."""
        import torch

        with torch.inference_mode():
            tensors = [torch.from_numpy(array).to(self.task.device) for array in inputs.values()]
            outputs = self.task.predict(*tensors)
            return {name: output.cpu().numpy() for name, output in outputs.items()}


class Onnx(Engine):
    """An exported file in onnxruntime, on the processor.

    Args:
        path: the ONNX file.

    Raises:
        UserError: no such file, damaged, or not written by export_model.py.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        if not path.is_file():
            raise UserError(f"{path}: no such file")
        if path.suffix == ".safetensors":
            raise UserError(f"{path}: weights for engine=torch; engine=onnx takes a model.onnx")
        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # whatever damage does to a model file
            raise UserError(f"{path}: onnxruntime cannot load it ({one_line(error)})") from error
        text = self.session.get_modelmeta().custom_metadata_map.get("contract", "")
        try:
            self.metadata = Metadata.from_json(text)
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
    """A model on a Triton server.

    Args:
        name: of the model.
        address: of the server's gRPC, HOST:PORT.

    Raises:
        UserError: no server there, no such model, or one without a metadata.
    """

    def __init__(self, name: str, address: str) -> None:
        from nano_cv.serving.client import Client, ServerError

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
    """What `engine=torch|onnx|triton` asks for.

    Raises:
        UserError: the model is not there, or is not the one asked for; says what to type.
    """
    if config.gradcam and config.engine != "torch":
        raise UserError("gradcam=true: only torch can look into a network; add engine=torch")
    return {"torch": _torch, "onnx": _onnx, "triton": _triton}[config.engine](config)


def _torch(config: DictConfig) -> Engine:
    path = building.weights_file(config)
    return Torch(building.trained_task(config, path), path, config.trainer.accelerator)


def _onnx(config: DictConfig) -> Engine:
    if config.weights:
        path = Path(str(config.weights)).expanduser()
    else:
        folder = Path(config.paths.models) / f"{config.model.name}_{config.data.name}"
        files = [file for file in folder.glob("*/model.onnx") if file.parent.name.isdecimal()]
        if not files:
            raise UserError(
                f"{folder}: no exported model; to make one, type: {building.again('export_model')}"
            )
        path = max(files, key=lambda file: int(file.parent.name))
    engine = Onnx(path)
    if engine.metadata.model != config.model.name:
        raise UserError(
            f"{path}: a model={engine.metadata.model}, not a model={config.model.name}; "
            f"type +model={engine.metadata.model}"
        )
    return engine


def _triton(config: DictConfig) -> Engine:
    if config.weights:
        raise UserError("weights= has no meaning with engine=triton: the server has its own")
    name = f"{config.model.name}_{config.data.name}"
    return Triton(name, config.server)


def find_device(accelerator: str) -> Any:
    """The torch device that `auto`, `cpu`, `gpu` or `mps` means here."""
    import torch

    have = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    wanted = {"auto": ("cuda", "mps", "cpu"), "gpu": ("cuda", "mps")}.get(
        accelerator, (accelerator,)
    )
    for name in wanted:
        if have.get(name, name == "cpu"):
            return torch.device(name)
    raise UserError(f"trainer.accelerator={accelerator}: this machine has none; leave it out")
