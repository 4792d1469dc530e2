"""A run of `serve.py`, from the settings to the last request."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from PIL import Image

from nano_cv.errors import UserError
from nano_cv.serving import triton
from nano_cv.serving.backend import Backend
from nano_cv.serving.door import Door
from nano_cv.serving.listening import make_listener
from nano_cv.serving.local import Local
from nano_cv.serving.supervisor import Supervisor
from nano_cv.serving.watched import Watched

log = logging.getLogger(__name__)


async def serve(config: DictConfig) -> None:
    """Open the front door, start the backend, and serve until a signal asks to stop.

    Raises:
        UserError: a port is taken, there is no model, or no model can be served.
    """
    Image.core.set_blocks_max(8)  # blocks of 16 MB kept by Pillow: halves the time of a small JPEG
    backend = _make_backend(config)
    listener = make_listener(Door(backend, config), config)
    open_door = asyncio.create_task(listener.serve())
    try:
        with _cancelled_by_signals(config.exit_timeout_seconds):
            await backend.start()
            backend.check_any()
            backend.state = "serving"
            _say(config, backend)
            await backend.watch()
    finally:
        if backend.state == "serving":
            seconds = config.exit_timeout_seconds
            log.info("stopping: requests in flight have %g s; Ctrl-C ends them now", seconds)
        backend.state = "draining"
        listener.should_exit = True
        await open_door  # before the backend stops, which the requests in flight still need
        await backend.stop()


def _make_backend(config: DictConfig) -> Backend:
    """Return the backend: a Triton that runs already, our own Triton, or onnxruntime here."""
    _check_port("port", config.port, config.host)
    if config.triton:
        return Watched(config.triton, config)
    try:
        triton.find_wheel()
    except UserError as error:
        log.warning("onnxruntime in this process answers: %s", error)
        return Local(config)
    if config.port == config.grpc_port:
        raise UserError(f"port and grpc_port are both {config.port}; each needs its own")
    _check_port("grpc_port", config.grpc_port, triton.LOOPBACK)
    return Supervisor(config, Path(HydraConfig.get().runtime.output_dir))


def _check_port(key: str, port: int, host: str) -> None:
    """Raise a `UserError` if the port, that of `key` of the configuration, is not free."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UserError(
            f"{key}={port}: {error.strerror}; stop what listens there, or choose "
            f"another: {key}={triton.free_ports(1)[0]}"
        ) from error


@contextmanager
def _cancelled_by_signals(seconds: float) -> Iterator[None]:
    """Let SIGTERM or Ctrl-C end the block; a second signal ends this process at once."""
    block = asyncio.current_task()
    assert block is not None

    def signalled() -> None:
        if block.cancelling():
            log.warning("killed; requests in flight are lost")
            os._exit(128 + signal.SIGINT)  # the processes that we have started end with this one
        block.cancel()
        # Requests, then Triton, have so many seconds; no thread may keep this process for ever.
        signal.alarm(round(2 * seconds) + 5)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    with suppress(asyncio.CancelledError):
        yield


def _say(config: DictConfig, backend: Backend) -> None:
    """Log the addresses of the server and the names of the models that it serves."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"http://{host}:{config.port}"
    lines = [f"page  {address}", f"API   {address}/docs"]
    if isinstance(backend, Watched):
        lines.append(f"gRPC  {backend.address}")
    if isinstance(backend, Supervisor):
        lines.append(f"log   {backend.server.log}")
    ready = [model for model in backend.models.values() if model.state == "ready"]
    names = sorted(model.name for model in ready if model.takes_requests)
    log.info("serving %s; stop with Ctrl-C\n  %s", ", ".join(names), "\n  ".join(lines))
