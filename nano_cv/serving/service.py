"""A run of `serve.py`, from the settings to the last request."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from PIL import Image

from nano_cv.errors import UserError
from nano_cv.serving import triton
from nano_cv.serving.backend import Backend
from nano_cv.serving.door import Door
from nano_cv.serving.listening import make_listener
from nano_cv.serving.repository import wanted_models
from nano_cv.serving.supervisor import Supervisor, Watched

log = logging.getLogger(__name__)


async def serve(config: DictConfig) -> None:
    """Open the front door, start the backend, and serve until a signal asks to stop.

    Raises:
        UserError: a port is taken, there is no model, or no model can be served.
    """
    Image.core.set_blocks_max(8)  # blocks of 16 MB kept by Pillow: halves the time of a small JPEG
    backend = _make_backend(config)
    listener = make_listener(Door(backend, config).app, config)
    stopping = _stop_on_signals()
    open_door = asyncio.create_task(listener.serve())
    try:
        await _until(stopping, backend.start())
        if backend.state == "serving":
            _say(config, backend)
            await _until(stopping, backend.watch())
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
    if config.triton:
        check_ports(config, "port")
        return Watched(config.triton, config)
    wanted_models(Path(config.paths.models), config.models)
    try:
        wheel = triton.find_wheel()
    except UserError as error:
        from nano_cv.serving.local import Local

        check_ports(config, "port")
        log.warning("onnxruntime in this process answers: %s", error)
        return Local(config)
    check_ports(config, "port", "grpc_port")
    return Supervisor(wheel, config, Path(HydraConfig.get().runtime.output_dir))


def check_ports(config: DictConfig, *keys: str) -> None:
    """Check that the ports that `keys` of the configuration name are free.

    Raises:
        UserError: a port is taken, is not allowed, or is given twice.
    """
    if len({config[key] for key in keys}) < len(keys):
        raise UserError(f"{' and '.join(keys)} are both {config.port}; each needs its own")
    for key in keys:
        try:
            socket.create_server((config.host, config[key])).close()
        except OSError as error:
            raise UserError(
                f"{key}={config[key]}: {error.strerror}; stop what listens there, or choose "
                f"another: {key}={triton.free_ports(1)[0]}"
            ) from error


def _stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM or Ctrl-C sets; a second signal ends this process at once."""
    stopping = asyncio.Event()

    def signalled() -> None:
        if stopping.is_set():
            log.warning("killed; requests in flight are lost")
            os._exit(128 + signal.SIGINT)  # the processes that we have started end with this one
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    return stopping


async def _until(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or `stopping` is set; raises what `work` raises."""
    tasks = [asyncio.create_task(one) for one in (stopping.wait(), work)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[1].done():
            tasks[1].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _say(config: DictConfig, backend: Backend) -> None:
    """Log the addresses of the server and the names of the models that it serves."""
    address = f"http://{config.host}:{config.port}"
    lines = [f"page  {address}", f"API   {address}/docs"]
    if isinstance(backend, Watched):
        lines.append(f"gRPC  {backend.address}")
    if isinstance(backend, Supervisor):
        lines.append(f"log   {backend.server.log}")
    models = [one for one in backend.models.values() if one.takes_requests]
    names = sorted(model.name for model in models if model.state == "ready")
    log.info("serving %s; stop with Ctrl-C\n  %s", ", ".join(names), "\n  ".join(lines))
