"""Client of a Triton server by gRPC: lists models and predicts pictures. Imports no torch.

Names and classes of a model are asked from the server. Shapes: B pictures.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from nano_cv.errors import UserError, listing, nearest, one_line
from nano_cv.metadata import JPEG, KEY, Metadata

Arrays = dict[str, NDArray[Any]]
ADDRESS = "127.0.0.1:8001"
# Words of gRPC for a failed connection; Triton's message of a full queue has the same status.
BROKEN = re.compile("connect|socket|reset|goaway|dns", re.IGNORECASE)


def without_prefix(text: str) -> str:
    """A message of Triton without the id of the request and the name of the ensemble."""
    return re.sub(r"^\[request id: \S+\] |^in ensemble '[^']*', ", "", text)


class ServerError(UserError):
    """The server does not answer, does not know the model, or refuses a request."""


class Client:
    """Connections to one server, HOST:PORT by gRPC, for several threads, to be closed at the end.

    An answer is awaited for `timeout` seconds.
    """

    def __init__(self, address: str = ADDRESS, timeout: float = 30.0) -> None:
        self.address, self.timeout = address, timeout
        self._triton = InferenceServerClient(address)
        self._known: dict[str, ModelConfig] = {}
        # Several requests at a time, so that the server can form batches and use all cores.
        self._pool = ThreadPoolExecutor(8)

    def close(self) -> None:
        """End the threads and the connection."""
        self._pool.shutdown(cancel_futures=True)
        self._triton.close()

    def models(self) -> list[str]:
        """The names of the loaded models, from the statistics, which every server gives."""
        statistics = self._call("get_inference_statistics", as_json=True)
        return sorted({model["name"] for model in statistics.get("model_stats", [])})

    def config(self, name: str) -> ModelConfig:
        """The configuration of a model, asked for once; a `ServerError` names the nearest model."""
        if name not in self._known:
            try:
                self._known[name] = self._call("get_model_config", name).config
            except ServerError as error:
                ready = self.models()
                if name in ready:
                    raise
                raise ServerError(
                    f"{self.address}: no model '{name}'{nearest(name, ready)} "
                    f"Ready: {listing(ready) or 'none'}"
                ) from error
        return self._known[name]

    def metadata(self, model: str) -> Metadata:
        """The metadata of a model; a `ServerError` says that they, or such a model, are missing."""
        try:
            return Metadata.from_json(self.config(model).parameters[KEY].string_value)
        except ValueError as error:
            raise ServerError(
                f"{self.address}: the model '{model}' holds no metadata; "
                "export_model.py did not write it"
            ) from error

    def infer(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Compute named outputs from named inputs, all `[B, ...]`, in batches of the largest size.

        Raises:
            ServerError: no such model, inputs that the server refuses, or no answer in time.
        """
        count = len(next(iter(inputs.values())))
        size = self.config(model).max_batch_size or count
        parts = [
            {name: array[start : start + size] for name, array in inputs.items()}
            for start in range(0, count, size)
        ]
        answers = list(self._pool.map(partial(self._infer, model), parts))
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def predict_encoded(self, model: str, pictures: Sequence[bytes]) -> list[Arrays | ServerError]:
        """Predict JPEG, PNG or WebP files; returns the outputs of each, or its error, in order.

        The model `<model>_from_jpeg` on the server decodes them. Each picture is a request of its
        own, so that a bad picture fails alone.

        Raises:
            ServerError: no server, or no such model.
        """
        twin = f"{model}{JPEG}"
        (encoded,) = self.config(twin).input

        def predict(picture: bytes) -> Arrays | ServerError:
            try:
                outputs = self._infer(twin, {encoded.name: np.array([[picture]], object)})
            except ServerError as error:
                return error
            return {name: array[0] for name, array in outputs.items()}

        return list(self._pool.map(predict, pictures))

    def _infer(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Send one request, in a thread of the pool."""
        tensors = []
        for name, array in inputs.items():
            tensor = InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
            tensors.append(tensor.set_data_from_numpy(array))
        answer = self._call("infer", model, tensors)
        return {output.name: answer.as_numpy(output.name) for output in self.config(model).output}

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call tritonclient, and turn every exception into a `ServerError`."""
        try:
            settings = options | {"client_timeout": self.timeout}
            return getattr(self._triton, method)(*arguments, **settings)
        except Exception as error:  # sockets, gRPC and Triton have each their own
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> ServerError:
        text = one_line(error)
        if isinstance(error, InferenceServerException):
            text, status = error.message() or text, str(error.status())
            if "DEADLINE" not in status and not ("UNAVAILABLE" in status and BROKEN.search(text)):
                return ServerError(without_prefix(text).partition(" NOTE:")[0])
        if isinstance(error, TimeoutError) or "Deadline Exceeded" in text:
            return ServerError(
                f"{self.address}: no answer in {self.timeout:g} s; it is overloaded, or it hangs"
            )
        reason = text.rpartition("last error: ")[2]
        return ServerError(
            f"{self.address}: no Triton server answers there by gRPC ({reason}); "
            "to start one: python serve.py; its page and its gRPC have different ports"
        )
