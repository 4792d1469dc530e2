"""Web servers to load beside Triton: our front door, and the ten lines that a user would write."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.serving.load import http_call
from nano_cv.errors import UserError
from nano_cv.serving.triton import LOOPBACK, PROJECT, free_ports

PATIENCE = 60  # seconds until a server answers
WORKERS = 2  # processes of the ten lines

# Program that asks Linux to kill it when its parent dies, and then becomes the wanted command. It
# is a program because a `preexec_fn` (Python between `fork` and `exec`) may hang with threads.
STARTER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def dying_with_us(line: Sequence[str]) -> list[str]:
    """Return a command that runs `line` and is killed when this process ends, for any reason."""
    return [sys.executable, "-I", "-S", "-c", STARTER, str(os.getpid()), *line]


@contextmanager
def front_door(repository: Path, folder: Path) -> Iterator[tuple[int, int]]:
    """Our `serve.py`, once every model answers; yields its ports, of HTTP and of gRPC."""
    port, rpc = free_ports(2)
    settings = [f"paths.models={repository.absolute()}", f"paths.runs={folder.absolute()}"]
    line = [sys.executable, str(PROJECT / "serve.py"), *settings, f"grpc_port={rpc}"]
    with _running([*line, f"port={port}"], port, "/health", folder / "door.log", {}):
        yield port, rpc


@contextmanager
def ten_lines(file: Path, folder: Path) -> Iterator[int]:
    """`ten_lines.py` with the ONNX model `file`; yields its port.

    The socket is opened here because uvicorn, with several workers, leaves Nagle's algorithm on:
    each answer on a kept connection would wait 40 ms for an acknowledgement.
    """
    app = f"{__package__}.ten_lines:app"
    with socket.create_server((LOOPBACK, 0)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = [sys.executable, "-m", "uvicorn", app, f"--workers={WORKERS}", "--no-access-log"]
        line += [f"--fd={listening.fileno()}"]
        variables, port = {"MODEL": str(file.absolute())}, listening.getsockname()[1]
        options = {"pass_fds": [listening.fileno()]}
        with _running(line, port, "/docs", folder / "ten_lines.log", variables, **options):
            yield port


@contextmanager
def _running(
    line: Sequence[str],
    port: int,
    page: str,
    log: Path,
    variables: Mapping[str, str],
    **options: Any,
) -> Iterator[None]:
    """A server on a port, once it answers on a page.

    Raises:
        UserError: it ends, or does not answer in time; names its log.
    """
    with log.open("w") as output:
        server = subprocess.Popen(
            dying_with_us(line),
            env=os.environ | variables,
            cwd=PROJECT,
            stdout=output,
            stderr=subprocess.STDOUT,
            **options,
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
            yield
        finally:
            server.terminate()
            server.wait()
