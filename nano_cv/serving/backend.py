"""What the front door asks for answers: a Triton of ours, a Triton elsewhere, or this process."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from nano_cv.errors import UserError, one_line
from nano_cv.evaluation.exported import Onnx
from nano_cv.metadata import JPEG, Metadata
from nano_cv.serving.connection import RefusedError

log = logging.getLogger(__name__)
Arrays = Mapping[str, NDArray[Any]]


@dataclass
class Model:
    """What is known of one model.

    Attributes:
        state: `loading`, `ready`, `failing` (loaded, but gives no answer) or `refused`.
        reason: why it is not ready.
        versions: those that are served.
        refused: versions that are not served, and why.
        metadata: what the model promises; None for models that are not ours.
        batch: how many pictures it takes in one request.
        instances: how many processes of Triton's Python backend run it; 0 for an ensemble.
        question: the request that shows whether the model answers.
        last_good: when it last answered, in seconds since 1970.
        strikes: how often it has stopped the server without one answer in between.
    """

    name: str
    state: str = "loading"
    reason: str = ""
    versions: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    metadata: Metadata | None = None
    batch: int = 1
    instances: int = 0
    question: service_pb2.ModelInferRequest | None = None
    last_good: float | None = None
    strikes: int = 0

    @property
    def takes_requests(self) -> bool:
        """Whether people ask it at the front door: not the twin of a model, nor one of others."""
        return self.metadata is not None and not self.name.endswith(JPEG)

    @property
    def promised(self) -> Metadata:
        """The metadata of a model that has some."""
        assert self.metadata is not None
        return self.metadata

    def is_now(self, state: str, reason: str = "") -> None:
        """Change the state, and log what has changed."""
        if state == "ready":
            self.last_good, self.strikes = time.time(), 0
        if (state, reason) != (self.state, self.reason):
            level = logging.INFO if state == "ready" else logging.WARNING
            log.log(level, "%s: %s%s", self.name, state, f": {reason}" if reason else "")
        self.state, self.reason = state, reason

    def shown(self) -> dict[str, Any]:
        """For the health page."""
        good = self.last_good and time.localtime(self.last_good)
        known = {key: getattr(self, key) for key in ("state", "reason", "versions", "refused")}
        return known | {"last_good_answer": good and time.strftime("%Y-%m-%dT%H:%M:%S%z", good)}


class Backend(ABC):
    """Answers requests, and knows of each model whether it would.

    Attributes:
        state: `starting`, `serving`, `restarting` or `draining`.
        restarts: how often the server was started again.
        models: by name.
        engines: models that are also open in this process, by name; the door asks these itself.
    """

    def __init__(self) -> None:
        self.state, self.restarts = "starting", 0
        self.models: dict[str, Model] = {}
        self.engines: dict[str, Onnx] = {}

    @abstractmethod
    async def start(self) -> None:
        """Get ready; raises `UserError` where nothing can be served."""

    @abstractmethod
    async def watch(self) -> None:
        """Keep everything ready until cancelled."""

    @abstractmethod
    async def stop(self) -> None:
        """End what was started, once requests in flight are answered."""

    @abstractmethod
    async def infer(self, name: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Named inputs `[B, ...]` to named outputs `[B, ...]`; raises as `Connection.infer`."""

    def check_any(self) -> None:
        """Raise a `UserError` that names every model and its reason, if none of them is ready."""
        if not any(model.state == "ready" for model in self.models.values()):
            reasons = [f"{model.name}: {model.reason}" for model in self.models.values()]
            raise UserError("\n".join(["no model can be served", *reasons]))

    async def figures(self) -> list[Any]:
        """Triton's counters, one entry per version of a model; empty where there is no Triton."""
        return []

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether every model answers (and there is one), and what is known of each."""
        ready = [model.state == "ready" for model in self.models.values()]
        good = self.state == "serving" and any(ready) and all(ready)
        status = "ok" if good else "degraded" if self.state == "serving" else self.state
        models = {name: self.models[name].shown() for name in sorted(self.models)}
        return good, {"status": status, "server_restarts": self.restarts, "models": models}


def predict_here(engine: Onnx, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """The outputs of an engine of this process; raises `RefusedError` where it fails."""
    try:
        return engine.predict(inputs)
    except Exception as error:  # onnxruntime has a dozen kinds
        raise RefusedError(one_line(error)) from error
