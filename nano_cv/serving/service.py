"""One run of `serve.py`, from the settings to the last request."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from nano_cv.errors import UserError
from nano_cv.serving import triton
from nano_cv.serving.backend import Backend
from nano_cv.serving.door import Door, Limits
from nano_cv.serving.listening import make_listener, raise_file_limit
from nano_cv.serving.repository import wanted_models
from nano_cv.serving.supervisor import Supervisor, Watched

log = logging.getLogger(__name__)
HOSTS = ("127.0.0.1", "localhost", "::1")


async def serve(config: DictConfig) -> None:
    """Open the front door, start what answers behind it, and keep it until it is time to stop.

    Raises:
        UserError: a port is taken, there is no model, or none can be served.
    """
    backend = _make_backend(config)
    limits = Limits(
        config.max_request_bytes,
        config.max_picture_pixels,
        config.receive_seconds,
        config.answer_seconds,
    )
    door = Door(backend, limits, HOSTS if config.host in HOSTS else None)
    listener = make_listener(
        *(door.app, config.host, config.port, raise_file_limit(config.max_connections)),
        *(config.receive_seconds, config.exit_timeout_seconds),
    )
    stopping = _stop_on_signals(backend)
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
        await open_door  # Triton is still needed for what came in by the door
        await backend.stop()


def _make_backend(config: DictConfig) -> Backend:
    """A Triton that runs already, one of our own, or onnxruntime in this process."""
    watching = {
        "probe_seconds": config.probe_seconds,
        "deadline": config.probe_deadline_seconds,
        "answer_seconds": config.answer_seconds,
    }
    if config.triton:
        check_ports(config.host, {"port": config.port})
        return Watched(config.triton, **watching)
    source = Path(config.paths.models)
    wanted = list(config.models) if config.models else None
    wanted_models(source, wanted)
    try:
        wheel = triton.find_wheel()
    except UserError as error:
        from nano_cv.serving.local import Local

        check_ports(config.host, {"port": config.port})
        log.warning("onnxruntime in this process answers: %s", error)
        return Local(source, wanted, config.poll_seconds)
    check_ports(config.host, {"port": config.port, "grpc_port": config.grpc_port})
    return Supervisor(
        wheel,
        source,
        wanted,
        Path(HydraConfig.get().runtime.output_dir),
        config.grpc_port,
        config.poll_seconds,
        config.exit_timeout_seconds,
        **watching,
    )


def check_ports(host: str, ports: Mapping[str, int]) -> None:
    """Make sure that each is free; the keys are those of the configuration.

    Raises:
        UserError: one is taken, is none, or is given twice.
    """
    for key, port in ports.items():
        twice = [other for other in ports if other != key and ports[other] == port]
        if twice:
            raise UserError(f"{key} and {twice[0]} are both {port}; each needs its own")
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # just ended ones
                probe.bind((host, port))
                probe.listen()
        except OSError as error:
            raise UserError(
                f"{key}={port}: {error.strerror}; stop what listens there, or choose another: "
                f"{key}={triton.free_ports(1)[0]}"
            ) from error


def _stop_on_signals(backend: Backend) -> asyncio.Event:
    """What is set at the first SIGTERM or Ctrl-C; the second ends everything at once."""
    stopping = asyncio.Event()

    def signalled() -> None:
        if stopping.is_set():
            log.warning("killed; requests in flight are lost")
            if isinstance(backend, Supervisor):
                backend.kill()
            os._exit(128 + signal.SIGINT)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    return stopping


async def _until(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Until `work` is done or fails, or it is time to stop."""
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
    """Where it answers."""
    lines = [f"page  http://{config.host}:{config.port}", f"API   {config.host}:{config.port}/docs"]
    if isinstance(backend, Watched):
        lines.append(f"gRPC  {backend.address}")
    if isinstance(backend, Supervisor):
        lines.append(f"log   {backend.server.log}")
    models = [one for one in backend.models.values() if one.takes_requests]
    names = sorted(model.name for model in models if model.state == "ready")
    log.info("serving %s; stop with Ctrl-C\n  %s", ", ".join(names), "\n  ".join(lines))
