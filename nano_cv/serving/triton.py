"""The Triton server of the `nvidia-pytriton` wheel: where it is installed, and how it is called.

Only the wheel's server is used, none of its Python code. The server has a single backend, `python`,
for which other backends can be written. `backends/onnxruntime/model.py` is such a backend: it
serves every model whose config says `backend: "onnxruntime"` or `backend: "openvino"`, from the
same files as NVIDIA's own container does.
"""

import ctypes.util
import importlib.util
import os
import shutil
import socket
import sys
import sysconfig
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from nano_cv.errors import UserError

BACKENDS = Path(__file__).parent / "backends"
# Decoders in the repository import `nano_cv.data.images`. The stub is an isolated Python, which
# ignores PYTHONPATH, but has the folder on its path in which the server was started.
PROJECT = Path(__file__).parents[2]
LOOPBACK = "127.0.0.1"
START_SECONDS = 300  # limit of a start, which ends when all models are loaded or refused
VERSION = sysconfig.get_python_version()  # such as 3.11


class Wheel(NamedTuple):
    """Paths of the parts of the server in the installed wheel."""

    server: Path
    python_backend: Path
    stub: Path
    libraries: Path


def find_wheel() -> Wheel:
    """Return the paths of the installed server.

    Raises:
        UserError: no server for this platform or Python; the message says what to type instead.
    """
    spec = importlib.util.find_spec("pytriton")  # found, not imported
    container = "or serve from NVIDIA's container: docker compose up"
    if sys.platform != "linux":
        raise UserError(
            f"Triton's wheel is for Linux, and this is {sys.platform}; type: docker compose up"
        )
    if spec is None or spec.origin is None:
        raise UserError(f"the Triton server is not installed; type: poetry install; {container}")
    package = Path(spec.origin).parent
    root = package / "tritonserver"
    wheel = Wheel(
        server=root / "bin" / "tritonserver",
        python_backend=root / "backends" / "python",
        stub=root / "python_backend_stubs" / VERSION / "triton_python_backend_stub",
        libraries=package.parent / "nvidia_pytriton.libs",
    )
    if not (_python_library().exists() or ctypes.util.find_library(f"python{VERSION}")):
        raise UserError(
            f"{_python_library()}: missing, and Triton's Python backend needs it; "
            f"type: sudo apt install libpython{VERSION}; {container}"
        )
    for part in wheel:
        if not part.exists():
            raise UserError(f"{part}: missing, so this Triton cannot run here; {container}")
    return wheel


def make_backends(wheel: Wheel, folder: Path) -> Path:
    """Fill `folder` as Triton's backend directory, and return it."""
    shutil.copytree(wheel.python_backend, folder / "python")  # copies: Triton refuses links
    shutil.copy2(wheel.stub, folder / "python")
    for name in ("onnxruntime", "openvino"):
        shutil.copytree(BACKENDS / "onnxruntime", folder / name)
    return folder


def environment(wheel: Wheel) -> dict[str, str]:
    """Return the server's environment, with this Python's packages and the wheel's libraries."""
    path = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    return os.environ | {
        "LD_LIBRARY_PATH": f"{wheel.libraries}{os.pathsep}{_python_library().parent}",
        "PATH": os.pathsep.join(path),
        "VIRTUAL_ENV": sys.prefix,
        "PILLOW_BLOCKS_MAX": "8",  # blocks of 16 MB kept by Pillow: halves the time of a small JPEG
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _python_library() -> Path:
    """Return the path of libpython, which the stub is linked with; some Pythons lack the file."""
    return Path(sysconfig.get_config_var("LIBDIR"), f"libpython{VERSION}.so.1.0")


def command(
    wheel: Wheel, backends: Path, repository: Path, port: int, exit_timeout: int, poll: bool
) -> list[str]:
    """Return the command line of tritonserver, which listens only for gRPC on the loopback.

    In the modes "poll" and "none" no client can make Triton load a model. In the mode "explicit" a
    client could, and a model may be a program: whoever reaches the port would run code in our name.
    Requests in flight have `exit_timeout` seconds when the server is told to stop.
    """
    return [
        str(wheel.server),
        f"--model-repository={repository.absolute()}",
        f"--backend-directory={backends.absolute()}",
        f"--model-control-mode={'poll' if poll else 'none'}",
        *(["--repository-poll-secs=1"] if poll else []),
        "--exit-on-error=false",  # one bad model does not stop the others
        f"--exit-timeout-secs={exit_timeout}",
        # Two kinds of HTTP request crash this version, and /metrics is HTTP too.
        *("--allow-http=false", "--allow-metrics=false"),
        # By default memory of eight requests stays allocated: 460 MiB after 300 MiB, now 140 MiB.
        "--grpc-infer-allocation-pool-size=0",
        f"--grpc-address={LOOPBACK}",
        f"--grpc-port={port}",
    ]


def free_ports(count: int) -> list[int]:
    """Return `count` free ports of the loopback address."""
    with ExitStack() as stack:
        bound = [stack.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in bound]
