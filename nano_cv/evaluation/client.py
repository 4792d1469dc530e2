"""Client of a Triton server by gRPC: lists models and predicts pictures. Imports no torch.

Names, shapes and classes of a model are asked from the server. Shapes: B pictures, S side of the
square in pixels.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tritonclient.grpc
from numpy.typing import NDArray
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


class Model(NamedTuple):
    """Description of a model by the server; a dimension of -1 is free, the first is the batch."""

    name: str
    inputs: dict[str, tuple[str, list[int]]]
    outputs: list[str]
    max_batch_size: int
    parameters: dict[str, str]


class Client:
    """Connections to one server, HOST:PORT by gRPC; for several threads, and a context manager.

    An answer is awaited for `timeout` seconds. `concurrency` requests are sent at a time, so that
    the server can form batches and use all cores.
    """

    def __init__(self, address: str = ADDRESS, timeout: float = 30.0, concurrency: int = 8) -> None:
        self.address, self.timeout = address, timeout
        self._triton = tritonclient.grpc.InferenceServerClient(address)
        self._known: dict[str, Model] = {}
        self._pool = ThreadPoolExecutor(concurrency)

    def close(self) -> None:
        """End the threads and the connection."""
        self._pool.shutdown(cancel_futures=True)
        self._triton.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def models(self) -> list[str]:
        """The names of the loaded models, from the statistics, which every server gives."""
        statistics = self._call("get_inference_statistics", as_json=True)
        return sorted({model["name"] for model in statistics.get("model_stats", [])})

    def model(self, name: str) -> Model:
        """Ask for the description of a model, once.

        Raises:
            ServerError: no such model; names the nearest.
        """
        if name not in self._known:
            try:
                metadata = self._call("get_model_metadata", name, as_json=True)
                config = self._call("get_model_config", name, as_json=True)
            except ServerError as error:
                ready = self.models()
                if name in ready:
                    raise
                raise ServerError(
                    f"{self.address}: no model '{name}'{nearest(name, ready)} "
                    f"Ready: {listing(ready) or 'none'}"
                ) from error
            config = config.get("config", config)
            parameters = config.get("parameters", {}).items()
            self._known[name] = Model(
                name,
                {
                    tensor["name"]: (tensor["datatype"], [int(dim) for dim in tensor["shape"]])
                    for tensor in metadata["inputs"]
                },
                [tensor["name"] for tensor in metadata["outputs"]],
                config.get("max_batch_size", 0),
                {key: value.get("string_value", "") for key, value in parameters},
            )
        return self._known[name]

    def metadata(self, model: str) -> Metadata:
        """The metadata that a model carries.

        Raises:
            ServerError: no such model, or a model without metadata.
        """
        try:
            return Metadata.from_json(self.model(model).parameters.get(KEY, ""))
        except ValueError as error:
            raise ServerError(
                f"{self.address}: the model '{model}' holds no metadata; "
                "export_model.py did not write it"
            ) from error

    def predict(self, model: str, images: NDArray[np.uint8]) -> Arrays:
        """Predict images uint8 `[B, 3, S, S]`, any number of them; returns outputs `[B, ...]`.

        Raises:
            ServerError: no such model, images of another shape, or no answer in time.
        """
        return self.infer(model, {next(iter(self.model(model).inputs)): images})

    def infer(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Compute named outputs from named inputs, all `[B, ...]`, in batches of the largest size.

        Raises:
            ServerError: as `predict`.
        """
        known = self.model(model)
        self._check(known, inputs)
        count = len(next(iter(inputs.values())))
        size = known.max_batch_size or count
        parts = [
            {name: array[start : start + size] for name, array in inputs.items()}
            for start in range(0, count, size)
        ]
        answers = list(self._pool.map(partial(self._infer, known), parts))
        return {name: np.concatenate([one[name] for one in answers]) for name in known.outputs}

    def predict_encoded(
        self, model: str, pictures: Sequence[bytes]
    ) -> list[dict[str, NDArray[Any]] | ServerError]:
        """Predict JPEG, PNG or WebP files; returns the outputs of each, or its error, in order.

        The model `<model>_from_jpeg` on the server decodes them. Each picture is a request of its
        own, so that a bad picture fails alone.

        Raises:
            ServerError: no server, or no such model.
        """
        known = self.model(f"{model}{JPEG}")
        ((name, (_, dims)),) = known.inputs.items()
        shape = [max(1, dim) for dim in dims]

        def one(picture: bytes) -> dict[str, NDArray[Any]] | ServerError:
            try:
                outputs = self._infer(known, {name: np.array([picture], object).reshape(shape)})
            except ServerError as error:
                return error
            return {name: array[0] for name, array in outputs.items()}

        return list(self._pool.map(one, pictures))

    def _check(self, model: Model, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Refuse wrong inputs here; the server's message would be about its configuration."""
        if inputs.keys() != model.inputs.keys():
            raise ServerError(
                f"{model.name}: takes {listing(model.inputs)}, and given was {listing(inputs)}"
            )
        for name, array in inputs.items():
            dtype, dims = model.inputs[name]
            fits = len(dims) == array.ndim and all(
                want in (-1, have) for want, have in zip(dims, array.shape, strict=True)
            )
            if not fits or np_to_triton_dtype(array.dtype) != dtype or 0 in array.shape:
                shape = ", ".join("B" if dim < 0 else str(dim) for dim in dims)
                raise ServerError(
                    f"{model.name}: {name} is {dtype} [{shape}], and given was {array.dtype} "
                    f"{list(array.shape)}"
                )

    def _infer(self, model: Model, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Send one request, in a thread of the pool."""
        tensors = []
        for name, array in inputs.items():
            tensor = tritonclient.grpc.InferInput(name, array.shape, model.inputs[name][0])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        answer = self._call("infer", model.name, tensors)
        return {name: answer.as_numpy(name) for name in model.outputs}

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call tritonclient, and turn every exception into a `ServerError`."""
        try:
            given = options | {"client_timeout": self.timeout}
            return getattr(self._triton, method)(*arguments, **given)
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
