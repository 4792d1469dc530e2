"""The Triton server of the `nvidia-pytriton` wheel, started on a model repository.

Only the wheel's server is used, none of its Python. It has one backend, `python`; Triton lets a
backend be written for that one, and `backends/onnxruntime/model.py` is such: it serves every model
whose config says `backend: "onnxruntime"`, as NVIDIA's own container does, from the same files.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from nano_cv.errors import UserError

BACKENDS = Path(__file__).parent / "backends"
PROJECT = Path(__file__).parents[2]  # decoders in the repository import `nano_cv.data.images`
LOOPBACK = "127.0.0.1"


class Wheel(NamedTuple):
    """Where the parts of the server lie."""

    server: Path
    python_backend: Path
    stub: Path
    libraries: Path


def find_wheel() -> Wheel:
    """The installed server.

    Raises:
        UserError: there is none for this platform or this Python; says what to type instead.
    """
    spec = importlib.util.find_spec("pytriton")  # found, not imported
    container = "or serve from NVIDIA's container: docker compose up"
    if sys.platform != "linux":
        raise UserError(f"Triton's wheel is for Linux, and this is {sys.platform}; type: docker compose up")
    if spec is None or spec.origin is None:
        raise UserError(f"the Triton server is not installed; type: poetry install; {container}")
    package = Path(spec.origin).parent
    root = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = Wheel(
        server=root / "bin" / "tritonserver",
        python_backend=root / "backends" / "python",
        stub=root / "python_backend_stubs" / version / "triton_python_backend_stub",
        libraries=package.parent / "nvidia_pytriton.libs",
    )
    for part in wheel:
        if not part.exists():
            raise UserError(f"{part}: missing, so this Triton cannot run here; {container}")
    return wheel


def make_backends(wheel: Wheel, folder: Path) -> Path:
    """Lay out the backend directory that Triton asks for, in `folder`."""
    shutil.copytree(wheel.python_backend, folder / "python")  # copies: Triton refuses links
    shutil.copy2(wheel.stub, folder / "python")
    shutil.copytree(BACKENDS / "onnxruntime", folder / "onnxruntime")
    return folder


def environment(wheel: Wheel, extra: Mapping[str, str] = {}) -> dict[str, str]:  # noqa: B006
    """The environment of the server and its stubs: this Python's packages, the wheel's libraries."""
    path = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    return os.environ | {
        "LD_LIBRARY_PATH": str(wheel.libraries),
        "PATH": os.pathsep.join(path),
        "VIRTUAL_ENV": sys.prefix,
        "PYTHONPATH": str(PROJECT),
        "PYTHONDONTWRITEBYTECODE": "1",
        **extra,
    }


def command(
    wheel: Wheel,
    backends: Path,
    repository: Path,
    ports: Mapping[str, int],
    models: Iterable[str],
    exit_timeout: int = 30,
) -> list[str]:
    """The command line, loopback only.

    Args:
        wheel: from `find_wheel`.
        backends: from `make_backends`.
        repository: the model repository.
        ports: of `grpc`, `metrics` and `http`; a service without a port is off.
        models: names of the models to load; others can be loaded later.
        exit_timeout: seconds that requests in flight have when the server is told to stop.
    """
    line = [
        str(wheel.server),
        f"--model-repository={repository.absolute()}",
        f"--backend-directory={backends.absolute()}",
        # Explicit: a model whose process has died only comes back by an unload and a load.
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        "--exit-on-error=false",  # one bad model does not stop the others
        f"--exit-timeout-secs={exit_timeout}",
        "--allow-gpu-metrics=false",
    ]
    for service in ("grpc", "http", "metrics"):
        port = ports.get(service)
        line.append(f"--allow-{service}={'true' if port else 'false'}")
        if port:
            line += [f"--{service}-address={LOOPBACK}", f"--{service}-port={port}"]
    return line
