"""Base class of the backends that run the models: our Triton, another Triton, or this process."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from omegaconf import DictConfig
from tritonclient.grpc import service_pb2

from nano_cv.errors import UserError, one_line
from nano_cv.evaluation.engines import Arrays
from nano_cv.evaluation.exported import Onnx
from nano_cv.metadata import JPEG, Metadata
from nano_cv.serving.repository import Repository

log = logging.getLogger(__name__)


class LostError(Exception):
    """The server or the model's process is gone, so the same request may be sent again."""


class RefusedError(Exception):
    """The model refuses the request or fails while it runs; the message says why."""


class GoneError(Exception):
    """The model was removed while the request waited."""


class CrowdedError(Exception):
    """The model's queue is full, so the client should try again later."""


@dataclass
class Model:
    """State of one model in the repository, as the backend knows it."""

    name: str
    state: str = "loading"  # or `ready`, `failing` (loaded, but gives no answer), `refused`
    reason: str = ""  # why the model is not ready
    versions: list[str] = field(default_factory=list)  # that are served
    refused: dict[str, str] = field(default_factory=dict)  # reason for each that is not served
    metadata: Metadata | None = None  # None for models that nano-cv did not export
    figures: Mapping[str, float] = field(default_factory=dict)  # measured at the export, by name
    instances: int = 0  # processes of Triton's Python backend per model; 0 for an ensemble
    config: Any = None  # Triton's configuration of the model
    question: service_pb2.ModelInferRequest | None = None  # a test: does the model answer?
    strikes: int = 0  # how often the model has stopped the server since its last answer
    told: list[str] = field(default_factory=list)  # versions that the log has named

    @property
    def takes_requests(self) -> bool:
        """Whether the front door offers the model: not for `_from_jpeg` twins or foreign models."""
        return self.metadata is not None and not self.name.endswith(JPEG)

    @property
    def promised(self) -> Metadata:
        """The metadata, for code that only handles models with metadata."""
        assert self.metadata is not None
        return self.metadata

    def is_now(self, state: str, reason: str = "") -> None:
        """Set state and reason, and log them, with the versions of a model that is ready."""
        ready = state == "ready"
        told = self.versions if ready else self.told
        if (state, reason, told) != (self.state, self.reason, self.told):
            level = logging.INFO if ready else logging.WARNING
            said = [self.name, state, f"version {', '.join(told)}" if ready else reason]
            log.log(level, ": ".join(filter(None, said)))
        self.state, self.reason, self.told = state, reason, told
        self.strikes = 0 if ready else self.strikes


class Backend(ABC):
    """A way to run the models; answers requests and tracks the state of each model.

    Its own state is `starting`, `serving`, `restarting` or `draining`. `engines` are models that
    are also open in this process, by name; the door calls these directly.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config, self.state, self.restarts = config, "starting", 0
        self.repository = Repository(Path(config.paths.models), config.models)
        self.models: dict[str, Model] = {}
        self.engines: dict[str, Onnx] = {}

    @abstractmethod
    async def start(self) -> None:
        """Load the models; raises `UserError` if no model can be served."""

    @abstractmethod
    async def watch(self) -> None:
        """Keep the models ready, and take over changes, until the task is cancelled."""

    async def stop(self) -> None:  # noqa: B027  # there may be nothing to end
        """Answer the requests in flight, then end every process that `start` has started."""

    @abstractmethod
    async def infer(self, name: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run a model: named inputs `[B, ...]` to named outputs `[B, ...]`.

        Raises:
            LostError: the server or the model's process is gone; the request may be sent again.
            CrowdedError: the model's queue is full.
            RefusedError: the model refuses the inputs or fails while it runs.
            GoneError: the model was removed.
            TimeoutError: no answer came in time.
        """

    def check_any(self) -> None:
        """Raise a `UserError` that names every model and its reason, if no model is ready."""
        if not any(model.state == "ready" for model in self.models.values()):
            reasons = [f"{model.name}: {model.reason}" for model in self.models.values()]
            raise UserError("\n".join(["no model can be served", *reasons]))

    async def figures(self) -> list[Any]:
        """Return Triton's counters, an entry per version of a model; empty without a Triton."""
        return []

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Return whether all models (at least one) answer, and the JSON of `/health`."""
        ready = [model.state == "ready" for model in self.models.values()]
        good = self.state == "serving" and any(ready) and all(ready)
        status = "ok" if good else "degraded" if self.state == "serving" else self.state
        shown = ("state", "reason", "versions", "refused")
        models = {
            name: {key: getattr(model, key) for key in shown}
            for name, model in sorted(self.models.items())
        }
        return good, {"status": status, "server_restarts": self.restarts, "models": models}


@contextmanager
def stopped_if_cancelled() -> Iterator[Any]:
    """Yield onnxruntime's options of a run, which stop the run if this asyncio task is cancelled.

    A thread cannot be ended. Without this, a model that hangs would hold its thread for ever.
    """
    options = onnxruntime.RunOptions()
    try:
        yield options
    except asyncio.CancelledError:
        options.terminate = True
        raise


def predict_here(engine: Onnx, inputs: Arrays, options: Any) -> dict[str, NDArray[Any]]:
    """Run a model that is open in this process; raises `RefusedError` if the model fails."""
    try:
        return engine.predict(inputs, options)
    except Exception as error:  # onnxruntime has a dozen kinds
        raise RefusedError(one_line(error)) from error
