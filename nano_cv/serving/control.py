"""What the supervisor asks of Triton, over gRPC: load, unload, and does this model answer?"""

import io
import math

import grpc
from google.protobuf.message import Message
from PIL import Image
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from nano_cv.serving.triton import LOOPBACK

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),  # the default of gRPC waits up to two minutes
    ("grpc.max_reconnect_backoff_ms", 500),
]
# Only the holder of a key made at start may change models or shared memory: a load can carry code.
RESTRICTED = "model-repository,shared-memory,trace,logging"
KEY = "nano-cv"
BYTES_OF = {"BOOL": 1, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8} | {
    f"{kind}{bits}": bits // 8 for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)
}
ALIVE = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
CROWDED = ("Exceeds maximum queue size", "Request timeout expired")  # refused by the queue policy


class LoadError(Exception):
    """Triton's reason for not loading a model."""


class HangError(Exception):
    """A model that takes requests and answers none."""


class Control:
    """A connection to one server; made inside the event loop that uses it."""

    def __init__(self, port: int, secret: str) -> None:
        """Connects when it is first used, and again whenever the server has been restarted."""
        self.channel = grpc.aio.insecure_channel(f"{LOOPBACK}:{port}", options=OPTIONS)
        self.triton = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.counts: dict[str, int] = {}
        self.metadata = ((f"triton-grpc-protocol-{KEY}", secret),)

    async def is_live(self, seconds: float) -> bool:
        """Whether the server itself answers."""
        try:
            request = service_pb2.ServerLiveRequest()
            return bool((await self.triton.ServerLive(request, timeout=seconds)).live)
        except grpc.RpcError:
            return False

    async def load(self, name: str, seconds: float) -> None:
        """Load the newest version, or do nothing if it is loaded.

        Raises:
            LoadError: with Triton's reason.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        await self._change(self.triton.RepositoryModelLoad, request, seconds)

    async def unload(self, name: str, seconds: float) -> None:
        """Unload every version; what is in flight is still answered.

        Raises:
            LoadError: with Triton's reason.
        """
        request = service_pb2.RepositoryModelUnloadRequest(model_name=name)
        await self._change(self.triton.RepositoryModelUnload, request, seconds)

    async def _change(
        self, method: grpc.aio.UnaryUnaryMultiCallable, request: Message, seconds: float
    ) -> None:
        try:
            await method(request, metadata=self.metadata, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise LoadError(f"no end after {seconds:g} s") from error
            raise LoadError(error.details() or error.code().name) from error

    async def probe_of(self, name: str) -> service_pb2.ModelInferRequest:
        """A request that the model should be able to answer.

        Raises:
            LoadError: the model is not loaded.
        """
        request = service_pb2.ModelConfigRequest(name=name)
        try:
            return probe(name, (await self.triton.ModelConfig(request, timeout=10)).config)
        except grpc.aio.AioRpcError as error:
            raise LoadError(error.details() or error.code().name) from error

    async def succeeded(self, name: str) -> int:
        """How many requests the model has answered since it was loaded."""
        request = service_pb2.ModelStatisticsRequest(name=name)
        try:
            answer = await self.triton.ModelStatistics(request, timeout=10)
        except grpc.RpcError:
            return 0
        return sum(version.inference_stats.success.count for version in answer.model_stats)

    async def ask(self, request: service_pb2.ModelInferRequest, seconds: float) -> str:
        """What is wrong with the model's answer; nothing if it is alive.

        A full or slow queue is no fault, as long as the model has answered somebody since it was
        last asked.

        Raises:
            HangError: the model answers nobody.
        """
        name = request.model_name
        try:
            await self.triton.ModelInfer(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            reason = error.details() or error.code().name
            if error.code() in ALIVE:
                return ""
            late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            if not (late or any(text in reason for text in CROWDED)):
                return reason
            before, self.counts[name] = self.counts.get(name, 0), await self.succeeded(name)
            if self.counts[name] != before:
                return ""
            raise HangError(f"no answer in {seconds:g} s" if late else reason) from error
        self.counts[name] = await self.succeeded(name)
        return ""


def probe(name: str, config: model_config_pb2.ModelConfig) -> service_pb2.ModelInferRequest:
    """Zeros in the shapes of the config, 1 where they are free; for bytes a tiny picture."""
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
            picture = tiny_picture()
            content = (len(picture).to_bytes(4, "little") + picture) * count
        else:
            item.datatype = dtype
            content = bytes(BYTES_OF.get(dtype, 1) * count)
        request.raw_input_contents.append(content)
    return request


def tiny_picture() -> bytes:
    """A valid JPEG of 8 by 8 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()
