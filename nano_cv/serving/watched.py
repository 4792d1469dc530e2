"""Backend that uses a Triton server by gRPC: lists its models, tests them, and runs them."""

import asyncio
import logging
import math
import re
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from omegaconf import DictConfig
from tritonclient.grpc import InferResult, model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor, triton_to_np_dtype

from nano_cv.data import images
from nano_cv.errors import UserError, one_line
from nano_cv.evaluation.client import BROKEN, without_prefix
from nano_cv.evaluation.engines import Arrays
from nano_cv.metadata import JPEG, KEY, Metadata
from nano_cv.serving.backend import Backend, CrowdedError, GoneError, LostError, Model, RefusedError
from nano_cv.serving.repository import choose

log = logging.getLogger(__name__)
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),  # by default gRPC waits up to two minutes
    ("grpc.max_reconnect_backoff_ms", 500),
]
ALIVE_CODES = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
QUEUE_REFUSALS = ("Exceeds maximum queue size", "Request timeout expired")  # of the queue policy
# Triton has lost the process that runs the model, or is itself gone or about to go.
LOST = re.compile("is not healthy|Stub process|Server is stopping", re.IGNORECASE)
MAX_INPUT_BYTES = 2**28  # bytes of a test request's input
KILLS = 2  # a request during which the server was lost this often is not sent again


class Watched(Backend):
    """Backend that uses a Triton started by somebody else, which it tests but cannot restart.

    `address` is HOST:PORT of Triton's gRPC endpoint.
    """

    def __init__(self, address: str, config: DictConfig) -> None:
        super().__init__(config)
        self.address = address
        self.channel = grpc.aio.insecure_channel(address, options=OPTIONS)  # reconnects by itself
        self.triton = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.doubt = asyncio.Event()  # set when a request fails, to test the models at once
        self.names_in_triton: list[str] = []  # also of models that the key `models` leaves out

    async def start(self) -> None:
        """See `Backend`."""
        try:
            await self.update_models()
        except LostError as error:
            raise UserError(
                f"triton={self.address}: no Triton server answers there by gRPC ({one_line(error)})"
            ) from error
        choose(self.config.models, self.names_in_triton, self.address)  # raises if there is no such
        with suppress(LostError):  # raised for a lost model, whose state is now `failing`
            await self.ask_all()

    async def watch(self) -> None:
        """See `Backend`."""
        while True:
            await self._pause(self.config.probe_seconds)
            try:
                await self.update_models()
            except LostError as error:
                for model in self.models.values():
                    model.is_now("failing", one_line(error))
                continue
            with suppress(LostError):  # of a lost model, whose state is now `failing`
                await self.ask_all()

    async def _pause(self, seconds: float) -> bool:
        """Sleep for `seconds`; return at once with True if a request has failed."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.doubt.wait(), seconds)
        doubted = self.doubt.is_set()
        self.doubt.clear()
        return doubted

    async def stop(self) -> None:
        """See `Backend`."""
        await self.channel.close()

    async def infer(self, name: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Backend`; the request is sent again if the server is lost meanwhile."""
        restarts, request = self.restarts, request_of(name, inputs)
        while True:
            while self.state in ("starting", "restarting"):
                await asyncio.sleep(0.05)
            try:
                seconds = self.config.answer_seconds
                answer = await self.triton.ModelInfer(request, timeout=seconds)
                outputs = InferResult(answer)
                return {output.name: outputs.as_numpy(output.name) for output in answer.outputs}
            except grpc.aio.AioRpcError as error:
                failure = _explained(error)
                if isinstance(failure, LostError) and name not in self.models:
                    raise GoneError("removed a moment ago") from error
                # After `KILLS` this request may be the cause, so it must not stop the server again.
                if not isinstance(failure, LostError) or self.restarts - restarts >= KILLS:
                    raise failure from error
                self.doubt.set()
                await asyncio.sleep(0.1)

    async def figures(self) -> list[Any]:
        """See `Backend`; empty while Triton does not answer."""
        try:
            answer = await self._call("ModelStatistics", service_pb2.ModelStatisticsRequest())
            return [row for row in answer.model_stats if row.name in self.models]
        except LostError:
            return []

    async def _call(self, method: str, request: Message, seconds: float = 10) -> Any:
        """Send a request and return Triton's answer; raises `LostError` if there is none."""
        try:
            return await getattr(self.triton, method)(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise LostError(error.details() or error.code().name) from error

    async def update_models(self) -> None:
        """Update the states of all models from Triton's index, and read configs of new versions."""
        seconds = self.config.probe_deadline_seconds
        answer = await self._call("RepositoryIndex", service_pb2.RepositoryIndexRequest(), seconds)
        self.names_in_triton = sorted({entry.name for entry in answer.models})
        wanted = self.config.models
        index: dict[str, list[Any]] = {}  # the versions of each model, loaded or refused
        for entry in answer.models:
            if wanted is None or {entry.name, entry.name.removesuffix(JPEG)} & {*wanted}:
                index.setdefault(entry.name, []).append(entry)
        for name in self.models.keys() - index.keys():
            model = self.models[name]
            if name not in self.repository.taken:
                del self.models[name]
                log.warning("%s: unloaded", name)
            elif model.state != "refused":  # not yet loaded, or its copy was deleted
                model.state, model.question = "loading", None
        for name, versions in index.items():
            model = self.models.setdefault(name, Model(name))
            ready = [entry.version for entry in versions if entry.state == "READY"]
            for entry in versions:
                if entry.state == "UNAVAILABLE" and entry.reason not in ("", "unloaded"):
                    model.refused[entry.version] = " ".join(entry.reason.split())
            if not ready:
                model.question = None
                if not model.refused:  # Triton has only just found it
                    model.state = "loading"
                elif model.state != "refused":
                    model.is_now("refused", "; ".join(model.refused.values()))
            else:  # each time, as a version may have been replaced in place
                await self._learn(model, ready)

    async def _learn(self, model: Model, versions: list[str]) -> None:
        """Read the configuration of a model."""
        request = service_pb2.ModelConfigRequest(name=model.name)
        try:
            config = (await self._call("ModelConfig", request)).config
        except LostError:
            return  # the model was unloaded a moment ago; the next look will see that
        if model.question is not None and (config, versions) == (model.config, model.versions):
            return
        model.config = config
        try:
            model.question, model.versions = question_for(model.name, config), versions
        except ValueError as error:
            model.question = None
            model.is_now("refused", one_line(error))
            return
        model.instances = sum(group.count for group in config.instance_group) * len(versions)
        model.metadata = None  # of a model that nano-cv did not export
        with suppress(ValueError):
            model.metadata = Metadata.from_json(config.parameters[KEY].string_value)
        if model.state == "refused":
            model.is_now("loading")

    async def ask_all(self) -> None:
        """Send a test request to every model that is loaded.

        Raises:
            LostError: models answer no client; the message names them.
        """
        loaded = [model for model in self.models.values() if model.question is not None]
        answers = await self._count_answers()
        tests = (self._ask(model, answers[model.name]) for model in loaded)
        lost = [why for why in await asyncio.gather(*tests) if why]
        if lost:
            raise LostError("; ".join(lost))

    async def _ask(self, model: Model, before: int) -> str:
        """Test a model; return the reason to restart the server, empty if there is none."""
        problem, is_lost = await self._test(model, before)
        model.is_now("failing" if problem else "ready", problem)
        return f"{model.name}: {problem}" if is_lost else ""

    async def _test(self, model: Model, before: int) -> tuple[str, bool]:
        """Send a test request; return the problem (empty if it answers) and if it is lost.

        A lost model answers no client, or its process is gone; Triton must restart. A full or slow
        queue is no fault if any client gets an answer in time. `before` counts the answers so far.
        """
        seconds = self.config.probe_deadline_seconds
        end = time.monotonic() + seconds
        try:
            await self.triton.ModelInfer(model.question, timeout=seconds)
            return "", False
        except grpc.aio.AioRpcError as error:
            if error.code() in ALIVE_CODES:
                return "", False
            problem = " ".join((error.details() or error.code().name).split())
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                problem = f"no answer in {seconds:g} s"
            elif LOST.search(problem):
                return problem, True
            elif not any(words in problem for words in QUEUE_REFUSALS):
                return problem, False
        while (await self._count_answers())[model.name] == before:
            if time.monotonic() >= end:
                return problem, True
            await asyncio.sleep(0.1)
        return "", False

    async def _count_answers(self) -> Counter[str]:
        """Return how many requests of any client Triton has answered with each model."""
        counts: Counter[str] = Counter()
        for stats in await self.figures():
            counts[stats.name] += stats.inference_stats.success.count
        return counts


def _explained(error: grpc.aio.AioRpcError) -> Exception:
    text, code = error.details() or error.code().name, error.code()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError(text)
    if any(words in text for words in QUEUE_REFUSALS):
        return CrowdedError(text)
    gone = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    if LOST.search(text) or (gone and BROKEN.search(text)) or "no available versions" in text:
        return LostError(text)
    return RefusedError(without_prefix(text))


def request_of(model: str, inputs: Arrays, *outputs: str) -> service_pb2.ModelInferRequest:
    """Make a request with named inputs, for all outputs of the model unless some are named."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        are_bytes = array.dtype == np.object_
        request.raw_input_contents.append(
            serialize_byte_tensor(array).item() if are_bytes else array.tobytes()
        )
    for output in outputs:
        request.outputs.add(name=output)
    return request


def question_for(name: str, config: model_config_pb2.ModelConfig) -> service_pb2.ModelInferRequest:
    """Make a test request that a sound model can answer.

    Inputs are zeros in the shapes of the config, with 1 for free dimensions; a tiny PNG for bytes.

    Raises:
        ValueError: an input is larger than any request may be.
    """
    inputs: dict[str, NDArray[Any]] = {}
    for tensor in config.input:
        if tensor.optional:
            continue
        shape = [1] * (config.max_batch_size > 0) + [max(dim, 1) for dim in tensor.dims]
        dtype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
        if math.prod(shape) * np.dtype(triton_to_np_dtype(dtype)).itemsize > MAX_INPUT_BYTES:
            raise ValueError(f"input {tensor.name} of {list(tensor.dims)}: too large for a request")
        if dtype == "STRING":
            picture = images.encode_png(np.zeros((8, 8, 3), np.uint8))
            inputs[tensor.name] = np.full(shape, picture, object)
        else:
            inputs[tensor.name] = np.zeros(shape, triton_to_np_dtype(dtype))
    return request_of(name, inputs)
