"""Closed-loop load on a server: as many requests in flight as there are clients, and no more.

A request is serialised once and its answer read but not unpacked: the clients share the cores with
the server, and what is to be measured is the server.
"""

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray

from nano_cv.serving.watched import request_of

Call = Callable[[], Any]
SPREAD = 0.02  # seconds between two connections
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Window(NamedTuple):
    """What a stretch of load came to: answers a second, and latencies in microseconds."""

    throughput: float
    latency50: float
    latency90: float
    latency99: float


def grpc_call(channel: grpc.Channel, model: str, inputs: Mapping[str, NDArray[Any]]) -> Call:
    """One request over gRPC, ready to be sent again and again."""
    body = request_of(model, inputs).SerializeToString()
    send = channel.unary_unary(INFER)  # bytes in, bytes out
    return lambda: send(body)


def http_call(port: int, path: str, body: bytes = b"") -> Call:
    """One request over HTTP on this machine, on a connection that each thread keeps.

    Connections are opened one after the other: of several processes behind one port, whichever is
    awake takes all that knock at once, and the others stay idle.
    """
    mine, opening = threading.local(), threading.Lock()

    def call() -> bytes:
        if not hasattr(mine, "link"):
            with opening:
                mine.link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                mine.link.connect()
                time.sleep(SPREAD)
        mine.link.request("POST" if body else "GET", path, body or None)
        answer = mine.link.getresponse()
        content: bytes = answer.read()
        if answer.status != 200:
            raise OSError(f"{answer.status} {content[:200]!r}")
        return content

    return call


def measure(call: Call, clients: int, seconds: float, warmup: float = 0.3) -> Window:
    """Load with `clients` callers for `seconds`, after a warm-up that is not counted.

    Raises:
        Exception: whatever a call raised; figures of failed requests would mean nothing.
    """
    latencies: list[float] = []
    failures: list[BaseException] = []
    start = time.perf_counter() + warmup
    end = start + seconds

    def client() -> None:
        try:
            now = time.perf_counter()
            while now < end and not failures:
                began = now
                call()
                now = time.perf_counter()
                if start <= now < end:
                    latencies.append(now - began)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    if not latencies:  # slower than the window: one answer is all there is to go by
        latencies = [time.perf_counter() - start]
    quantiles = np.percentile(latencies, (50, 90, 99)) * 1e6
    return Window(len(latencies) / seconds, *map(float, quantiles))
