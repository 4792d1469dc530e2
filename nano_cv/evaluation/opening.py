"""Opens the engine that a command line asks for: torch, an exported model or a server."""

import shlex
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from omegaconf import DictConfig

from nano_cv import building
from nano_cv.errors import UserError
from nano_cv.evaluation.engines import Arrays, Engine, Torch
from nano_cv.evaluation.trained import check_network, check_pixels, trained_task
from nano_cv.files import list_versions


def make_engine(config: DictConfig) -> Engine:
    """Make the engine named by `engine=torch|onnx|triton`.

    Raises:
        UserError: there is no such model, or the file holds another one; says what to type.
    """
    if config.gradcam and config.engine != "torch":
        raise UserError("gradcam=true: only torch can look into a network; add engine=torch")
    name = f"{config.model.name}_{config.data.name}"
    if config.engine == "torch":
        path = building.weights_file(config)
        return Torch(trained_task(config, path), path, config.trainer.accelerator)
    if config.engine == "triton":
        if config.weights:
            raise UserError("weights= has no meaning with engine=triton: the server has its own")
        engine: Engine = Triton(name, config.server)
    else:
        from nano_cv.evaluation.exported import Onnx

        file = config.weights and Path(str(config.weights)).expanduser()
        engine = Onnx(file or find_export(Path(config.paths.models) / name))
    metadata, source = engine.metadata, engine.source["model"]
    typed = building.find_typed(r"model[.](image_size|task[.]\w+([.]\w+)?)")
    keys = {text.partition("=")[0].rpartition(".")[2] for text in typed}  # others are as exported
    check_network(config, metadata, source, None if "network" in keys else keys)
    check_pixels(config, metadata, source)
    for key, value in building.answer_options(config).items():
        exported = metadata.answer_options.get(key, value)  # older exports do not tell
        if key in keys and value != exported:
            raise UserError(
                f"model.task.{key}={value}: {source} was exported with {exported}, which is fixed; "
                "engine=torch takes another, and so does a new export"
            )
    return engine


class Triton(Engine):
    """A model on the Triton server at `address`, HOST:PORT by gRPC.

    Raises:
        UserError: no server answers, it has no such model, or the model has no metadata.
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


def find_export(folder: Path, precision: str | None = None) -> Path:
    """The newest ONNX file in the folder of an exported model, of any or of the given precision.

    Raises:
        UserError: there is none; says what to type.
    """
    from nano_cv.evaluation.exported import Onnx

    files = [folder / str(version) / "model.onnx" for version in list_versions(folder)]
    for file in filter(Path.exists, reversed(files)):
        if precision is None or Onnx(file, entries={}).precision == precision:
            return file
    command = shlex.join(["python", "export_model.py", *building.find_typed("data|model|paths")])
    if precision:
        raise UserError(
            f"{folder}: no exported model in {precision}; type: {command} precision={precision}"
        )
    raise UserError(f"{folder}: no exported model; to make one, type: {command}")
