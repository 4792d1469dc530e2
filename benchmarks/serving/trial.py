"""A `serve.py` in a process of its own, and clients that keep count: for tests and fault trials."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
import numpy as np
import psutil
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.serving.load import INFER, Call, http_call
from benchmarks.serving.processes import dying_with_us
from nano_cv.serving.triton import LOOPBACK, PROJECT, free_ports
from nano_cv.serving.watched import request_of

OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each channel
]


# serve.py, which finds no Triton: as if its wheel were not installed.
WITHOUT = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
sys.argv[0] = "serve.py"
sys.modules["pytriton"] = None
from serve import serve
serve()
"""


class Trial:
    """One supervised server; leave the `with` block to stop it."""

    def __init__(
        self, repository: Path, folder: Path, *settings: str, without: bool = False
    ) -> None:
        """Start it on free ports, writing below `folder`; `wait_ready` waits.

        Args:
            repository: the models.
            folder: for what it writes.
            *settings: further ones.
            without: as on a machine that has no Triton.
        """
        self.ports = dict(zip(("port", "grpc_port"), free_ports(2), strict=True))
        self.output, self.temporary = folder / "serve.out", folder / "tmp"
        self.temporary.mkdir()
        line = [sys.executable, str(PROJECT / "serve.py"), *settings]
        if without:
            line[1:2] = ["-c", WITHOUT]
        line += [f"paths.models={repository}", f"paths.runs={folder / 'runs'}"]
        line += [f"{key}={port}" for key, port in self.ports.items()]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                dying_with_us(line),
                cwd=folder,
                env=os.environ | {"TMPDIR": str(self.temporary)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.channel = grpc.insecure_channel(f"{LOOPBACK}:{self.ports['grpc_port']}", OPTIONS)
        self.triton = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            finally:
                self.process.kill()

    @property
    def address(self) -> str:
        """Of the front door."""
        return f"http://{LOOPBACK}:{self.ports['port']}"

    def page(self, path: str) -> http.client.HTTPResponse:
        """What a GET of the front door brings."""
        return urllib.request.urlopen(f"{self.address}{path}", timeout=5)

    def predict(
        self, model: str, body: bytes = b"", query: str = "", **headers: str
    ) -> tuple[int, Any]:
        """Status and content of a POST to the front door."""
        url = f"{self.address}/models/{model}/predict{query}"
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, body, given, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                content, kind = answer.read(), answer.headers["Content-Type"]
                return answer.status, json.loads(content) if "json" in kind else content
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and content of the health page; 0 while there is none."""
        try:
            with self.page("/health") as page:
                return page.status, json.load(page)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, {}

    def model(self, name: str) -> dict[str, Any]:
        """What the health page says of a model."""
        return self.health()[1].get("models", {}).get(name, {})

    def wait(self, condition: Callable[[], Any], seconds: float = 30) -> float:
        """Seconds until the condition holds.

        Raises:
            TimeoutError: it did not, or the process has ended; with its output.
        """
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > seconds or self.process.poll() is not None:
                raise TimeoutError(f"{self.health()[1]}\n{self.output.read_text()}")
            time.sleep(0.1)
        return time.monotonic() - start

    def wait_ready(self, status: int = 200) -> float:
        """Wait until it serves."""
        return self.wait(lambda: self.health()[0] == status, 120)

    def server(self) -> psutil.Process:
        """The tritonserver."""
        return next(child for child in self.children() if child.name() == "tritonserver")

    def children(self) -> list[psutil.Process]:
        """All that it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stubs(self, model: str) -> list[psutil.Process]:
        """The newest processes of a model first."""
        found = []
        for child in self.children():
            try:
                if f"/live/{model}/" in child.cmdline()[1]:
                    found.append(child)
            except (psutil.Error, IndexError):
                continue  # gone, or just begun
        return sorted(found, key=lambda child: -child.create_time())

    def figures(self, model: str) -> Any:
        """Triton's statistics of a model."""
        request = service_pb2.ModelStatisticsRequest(name=model)
        return self.triton.ModelStatistics(request).model_stats[0]

    def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], *outputs: str, seconds: float = 20
    ) -> dict[str, NDArray[Any]]:
        """One request over gRPC.

        Raises:
            grpc.RpcError: it was refused.
        """
        answer = self.triton.ModelInfer(request_of(model, inputs, *outputs), timeout=seconds)
        dtypes = {"FP32": np.float32, "INT64": np.int64, "UINT8": np.uint8}
        return {
            tensor.name: np.frombuffer(raw, dtypes.get(tensor.datatype, np.uint8)).reshape(
                tensor.shape if tensor.datatype in dtypes else -1
            )
            for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }

    def grpc_call(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> Callable[[], Call]:
        """Makes callers, each with a connection of its own, that send this request."""
        body = request_of(model, inputs).SerializeToString()

        def make() -> Call:
            channel = grpc.insecure_channel(f"{LOOPBACK}:{self.ports['grpc_port']}", OPTIONS)
            send = channel.unary_unary(INFER)
            return lambda: send(body, timeout=30)

        return make

    def http_call(self, model: str, picture: bytes) -> Callable[[], Call]:
        """The bytes of a picture, sent to the front door on connections that are kept."""

        path = f"/models/{model}/predict"
        return lambda: http_call(self.ports["port"], path, picture)


class Answer(NamedTuple):
    """When a request was sent and answered, and the error if it failed."""

    sent: float
    answered: float
    error: str


class Load:
    """Closed-loop clients in the background; leave the `with` block to stop them."""

    def __init__(
        self, make: Callable[[], Call], clients: int = 4, until_error: bool = False
    ) -> None:
        """Each client makes its own call; with `until_error` it goes home at the first error."""
        self.answers: list[Answer] = []
        self.stopped = threading.Event()
        self.threads = [
            threading.Thread(target=self._client, args=(make, until_error), daemon=True)
            for _ in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(60)

    def _client(self, make: Callable[[], Call], until_error: bool) -> None:
        call = make()
        while not self.stopped.is_set():
            sent, error = time.monotonic(), ""
            try:
                call()
            except grpc.RpcError as failure:
                error = f"{failure.code().name}: {failure.details()}"
            except (OSError, http.client.HTTPException) as failure:
                error = f"{type(failure).__name__}: {failure}"
            self.answers.append(Answer(sent, time.monotonic(), error))
            if error:
                if until_error:
                    return
                time.sleep(0.02)  # as a client would that tries again

    def good(self) -> list[Answer]:
        """Those without an error."""
        return [answer for answer in self.answers if not answer.error]

    def errors(self) -> Counter[str]:
        """How often each error came."""
        return Counter(answer.error for answer in self.answers if answer.error)
