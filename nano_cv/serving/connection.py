"""gRPC connection to a Triton server: lists its models, tests them, and runs them."""

import math
import re
import time
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from nano_cv.data import images
from nano_cv.evaluation.client import BROKEN, without_prefix

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),  # by default gRPC waits up to two minutes
    ("grpc.max_reconnect_backoff_ms", 500),
]
BYTES_OF = {"BOOL": 1, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8} | {
    f"{kind}{bits}": bits // 8 for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)
}
ALIVE = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
CROWDED = ("Exceeds maximum queue size", "Request timeout expired")  # refused by the queue policy
# Triton has lost the process that runs the model, or is itself gone or about to go.
LOST = re.compile("is not healthy|Stub process|Server is stopping", re.IGNORECASE)

Arrays = Mapping[str, NDArray[Any]]


class LostError(Exception):
    """The server or the model's process is gone, so the same request may be sent again."""


class RefusedError(Exception):
    """The model refuses the request or fails while it runs; the message says why."""


class CrowdedError(Exception):
    """The model's queue is full, so the client should try again later."""


class Connection:
    """gRPC connection to one server; reconnects by itself, and is bound to the running loop."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self.triton = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.answered: dict[str, int] = {}  # answers that Triton had counted, at the last `ask`
        self.moved: dict[str, float] = {}  # monotonic time at which `ask` last saw the count grow

    async def call(self, method: str, request: Message, seconds: float = 10) -> Any:
        """Send a request and return Triton's answer.

        Raises:
            LostError: Triton gives no answer; the message says why.
        """
        try:
            return await getattr(self.triton, method)(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise LostError(error.details() or error.code().name) from error

    async def index(self, seconds: float) -> dict[str, list[Any]]:
        """Return the versions of each model, loaded or refused, by name; raises `LostError`.

        A version has the texts `version`, `state` (READY, LOADING or UNAVAILABLE) and `reason`.
        """
        found: dict[str, list[Any]] = {}
        request = service_pb2.RepositoryIndexRequest()
        for one in (await self.call("RepositoryIndex", request, seconds)).models:
            found.setdefault(one.name, []).append(one)
        return found

    async def config(self, name: str) -> model_config_pb2.ModelConfig:
        """Return the configuration of a loaded model; raises `LostError`."""
        return (await self.call("ModelConfig", service_pb2.ModelConfigRequest(name=name))).config

    async def statistics(self) -> list[Any]:
        """Return Triton's counters, an entry per version; empty while Triton does not answer."""
        try:
            request = service_pb2.ModelStatisticsRequest()
            return list((await self.call("ModelStatistics", request)).model_stats)
        except LostError:
            return []

    async def ask(self, question: service_pb2.ModelInferRequest, seconds: float) -> str:
        """Send a test request; return the problem with the answer, or "" if the model is alive.

        A full or slow queue is no fault as long as the model has answered any client since its
        last test.

        Raises:
            LostError: the model answers no client, or its process is gone; Triton must restart.
        """
        name, problem, lost, late = question.model_name, "", False, False
        try:
            await self.triton.ModelInfer(question, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() not in ALIVE:
                problem = error.details() or error.code().name
                late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                problem = f"no answer in {seconds:g} s" if late else problem
                crowded = late or any(text in problem for text in CROWDED)
                lost = crowded or bool(LOST.search(problem))
        count = sum(
            one.inference_stats.success.count for one in await self.statistics() if one.name == name
        )
        moved, self.answered[name] = self.answered.get(name, 0) != count, count
        now = time.monotonic()
        if moved:
            self.moved[name] = now
        idle = now - self.moved.setdefault(name, now)  # seconds without an answer to any client
        if LOST.search(problem) or (lost and not moved and (late or idle >= seconds)):
            raise LostError(problem)
        return "" if lost else problem

    async def infer(self, name: str, inputs: Arrays, seconds: float) -> dict[str, NDArray[Any]]:
        """Run a model: named inputs `[B, ...]` to named outputs `[B, ...]`.

        Raises:
            LostError: the server or the model's process is gone; the request may be sent again.
            CrowdedError: the model's queue is full.
            RefusedError: the model refuses the inputs or fails while it runs.
            TimeoutError: no answer came within `seconds`.
        """
        request = service_pb2.ModelInferRequest(model_name=name)
        for key, array in inputs.items():
            dtype = np_to_triton_dtype(array.dtype)
            request.inputs.add(name=key, datatype=dtype, shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        try:
            answer = await self.triton.ModelInfer(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise _explained(error) from error
        return {
            tensor.name: np.frombuffer(raw, triton_to_np_dtype(tensor.datatype)).reshape(
                tensor.shape
            )
            for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }


def _explained(error: grpc.aio.AioRpcError) -> Exception:
    text, code = error.details() or error.code().name, error.code()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError(text)
    if any(words in text for words in CROWDED):
        return CrowdedError(text)
    gone = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    if LOST.search(text) or (gone and BROKEN.search(text)) or "no available versions" in text:
        return LostError(text)
    return RefusedError(without_prefix(text))


def question_for(name: str, config: model_config_pb2.ModelConfig) -> service_pb2.ModelInferRequest:
    """Make a test request that a sound model can answer.

    Inputs are zeros in the shapes of the config, with 1 for free dimensions; a tiny PNG for bytes.
    """
    request = service_pb2.ModelInferRequest(model_name=name)
    for tensor in config.input:
        if tensor.optional:
            continue
        dtype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
        shape = [1] * (config.max_batch_size > 0) + [max(dim, 1) for dim in tensor.dims]
        item = request.inputs.add(name=tensor.name, shape=shape)
        count = math.prod(shape)
        if dtype == "STRING":
            item.datatype = "BYTES"
            picture = images.encode_png(np.zeros((8, 8, 3), np.uint8))
            content = (len(picture).to_bytes(4, "little") + picture) * count
        else:
            item.datatype = dtype
            content = bytes(BYTES_OF.get(dtype, 1) * count)
        request.raw_input_contents.append(content)
    return request
