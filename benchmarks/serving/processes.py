"""Web servers to load beside Triton: our front door, and the ten lines that a user would write."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.serving.load import http_call
from nano_cv.errors import UserError
from nano_cv.serving.process import dying_with_us
from nano_cv.serving.triton import PROJECT, free_ports

PATIENCE = 60  # seconds until a server answers
WORKERS = 2  # processes of the ten lines


@contextmanager
def front_door(repository: Path, folder: Path) -> Iterator[tuple[int, int]]:
    """Our `serve.py`, once every model answers; yields its ports, of HTTP and of gRPC."""
    (rpc,) = free_ports(1)
    settings = [f"paths.models={repository.absolute()}", f"paths.runs={folder.absolute()}"]
    line = [sys.executable, str(PROJECT / "serve.py"), *settings, f"grpc_port={rpc}"]
    with _running([*line, "port={port}"], "/health", folder / "door.log", {}) as port:
        yield port, rpc


@contextmanager
def ten_lines(file: Path, folder: Path) -> Iterator[int]:
    """`ten_lines.py` with the ONNX model `file`; yields its port."""
    app = f"{__package__}.ten_lines:app"
    line = [sys.executable, "-m", "uvicorn", app, f"--workers={WORKERS}"]
    line += ["--port={port}", "--no-access-log"]
    with _running(line, "/docs", folder / "ten_lines.log", {"MODEL": str(file.absolute())}) as port:
        yield port


@contextmanager
def _running(
    line: Sequence[str], page: str, log: Path, variables: Mapping[str, str]
) -> Iterator[int]:
    """A server on a free port, once it answers on a page.

    Raises:
        UserError: it ends, or does not answer in time; names its log.
    """
    (port,) = free_ports(1)
    line = [word.replace("{port}", str(port)) for word in line]
    with log.open("w") as output:
        server = subprocess.Popen(
            dying_with_us(line),
            env=os.environ | variables,
            cwd=PROJECT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            end = time.monotonic() + PATIENCE
            while True:
                try:
                    http_call(port, page)()
                    break
                except OSError:
                    if server.poll() is not None or time.monotonic() > end:
                        raise UserError(f"a web server does not answer; see {log}") from None
                    time.sleep(0.1)
            yield port
        finally:
            server.terminate()
            server.wait()
