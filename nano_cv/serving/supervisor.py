"""Backend that starts a Triton server of its own, and restarts it after failures.

Triton never restarts a process of its Python backend that has died, and its ready endpoints go on
saying yes; a process that hangs can abort the server. So the supervisor sends every model a test
request every two seconds and counts the processes. After any loss it starts the whole server again,
which takes some seconds, while the front door holds the requests.

Triton polls a private copy of the repository. In this mode no client can make Triton load a model,
which would be a way to run code here. New and changed models are checked, then copied.
"""

import asyncio
import fcntl
import logging
import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from omegaconf import DictConfig

from nano_cv.errors import UserError, one_line, printable
from nano_cv.evaluation.exported import Onnx
from nano_cv.export.triton_config import CONFIG, read_config, served_versions
from nano_cv.metadata import JPEG
from nano_cv.serving import triton
from nano_cv.serving.backend import LostError, Model
from nano_cv.serving.checking import check
from nano_cv.serving.process import Server, make_area
from nano_cv.serving.repository import Signature
from nano_cv.serving.staging import Staging
from nano_cv.serving.watched import Watched

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # between two looks at the processes
STRIKES = 2  # a model that stops the server this often without an answer is set aside
QUIET_SECONDS = 60  # a restart is immediate if the last one was longer ago than this
RETRY_SECONDS = 60  # before a model that could not be copied is tried again
LONGEST_WAIT = 30  # seconds before a restart; the wait begins at 0 and grows with each restart


def _lock_port(port: int) -> socket.socket:
    """Reserve a gRPC port among the servers of this machine, as two Tritons can share a port.

    Raises:
        UserError: another serve.py has it.
    """
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0nano_cv_grpc_{port}")  # a name without a file; it ends with this process
    except OSError as error:
        raise UserError(
            f"grpc_port={port}: another serve.py has it; stop that one, or choose another: "
            f"grpc_port={triton.free_ports(1)[0]}"
        ) from error
    return lock


class Supervisor(Watched):
    """Backend that starts a Triton of its own, watches it, restarts it, and stops it."""

    def __init__(self, config: DictConfig, folder: Path) -> None:
        super().__init__(f"{triton.LOOPBACK}:{config.grpc_port}", config)
        self.port_lock = _lock_port(config.grpc_port)
        self.restarted, self.wait = -1e9, 0.0  # time of the last restart, and the wait before it
        self.area = make_area()
        # systemd deletes old files in /tmp, but not below a folder that is locked.
        self.lock = os.open(self.area, os.O_RDONLY)
        fcntl.flock(self.lock, fcntl.LOCK_SH)
        self.staging = Staging(self.repository.source, self.area)
        self.lacking: set[str] = set()  # models that had too few processes at the last look
        self.failed: dict[str, float] = {}  # when the copy of a model failed the last time
        places = self.area, self.staging.live, folder / "triton.log"
        self.server = Server(*places, config.grpc_port, config.exit_timeout_seconds, poll=True)

    async def start(self) -> None:
        """See `Backend`."""
        self.repository.wanted()  # raises if there is none
        await self._take(self.repository.signatures())
        await self._start_server()
        with suppress(LostError):  # the watch will see that too, and restart Triton
            await self.ask_all()

    async def stop(self) -> None:
        """See `Backend`."""
        await asyncio.to_thread(self.server.stop)
        await super().stop()
        os.close(self.lock)
        self.port_lock.close()

    async def watch(self) -> None:
        """See `Backend`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_server())
            tasks.create_task(
                self.repository.watch(self.config.poll_seconds, self._take, self._drop)
            )

    # The server

    async def _watch_server(self) -> None:
        while True:
            try:
                await self._look_until_lost()
            except LostError as error:
                await self._restart(one_line(error))
            except (OSError, psutil.Error) as error:  # such as too many open files
                log.warning("the watch goes on: %s", one_line(error))
                await asyncio.sleep(LOOK_SECONDS)

    async def _look_until_lost(self) -> None:
        """Watch the processes and test the models; raises `LostError` if Triton must restart."""
        probed = 0.0
        while True:
            doubted = await self._pause(LOOK_SECONDS)
            if self.server.ended:
                raise LostError(f"tritonserver {self.server.ended}")
            await asyncio.to_thread(self._check_processes)
            if doubted or time.monotonic() - probed > self.config.probe_seconds:
                probed = time.monotonic()
                await self.update_models()
                await self.ask_all()
                self._take_again()

    def _check_processes(self) -> None:
        """Raise `LostError` if a process is stopped or missing, for Triton restarts none."""
        self.server.close_memory()
        stubs = self.server.stubs()
        processes = [process for own in stubs.values() for process in own]
        for process in (psutil.Process(self.server.pid), *processes):
            with suppress(psutil.Error):  # it has just ended
                if process.status() == psutil.STATUS_STOPPED:
                    raise LostError(f"process {process.pid} was stopped")
        # While a model is loaded again or unloaded, the number of its processes changes. So only
        # a ready model that lacks processes at two looks in a row has lost them.
        before = self.lacking
        self.lacking = {
            name
            for name, model in self.models.items()
            if model.state == "ready" and len(stubs.get(name, ())) < model.instances
        }
        for name in before & self.lacking:
            raise LostError(f"{name}: a process died")

    async def _start_server(self) -> None:
        """Start Triton and wait until it has loaded or refused every model.

        Raises:
            UserError: Triton ends, or is not ready in `triton.START_SECONDS`.
        """
        self.lacking = set()
        self.server.start()
        end = time.monotonic() + triton.START_SECONDS
        for model in self.models.values():
            model.question = None  # so that `update_models` reads the model's configuration again
        while True:
            with suppress(LostError):
                await self.update_models()
                self.server.close_memory()
                break
            if self.server.ended or time.monotonic() > end:
                raise UserError(f"{self.server.describe_end()}\nmore in {self.server.log}")
            await asyncio.sleep(0.05)

    async def _restart(self, why: str) -> None:
        """Restart Triton until a start succeeds, with a longer wait before each attempt."""
        self.state, self.restarts = "restarting", self.restarts + 1
        self._strike(why)
        while self.state == "restarting":
            for model in self.models.values():
                if model.state != "refused":
                    model.state, model.reason = "loading", why
            self.server.kill()
            quiet = time.monotonic() - self.restarted > QUIET_SECONDS
            self.wait = 0 if quiet else min(max(2 * self.wait, 0.5), LONGEST_WAIT)
            log.warning("%s; starting Triton again in %g s", why, self.wait)
            await asyncio.sleep(self.wait)
            self.restarted = time.monotonic()
            try:
                await self._start_server()
                self.state = "serving"
            except (UserError, OSError) as error:
                why = one_line(error)

    def _strike(self, why: str) -> None:
        """Set aside a model that has taken the whole server down `STRIKES` times."""
        for model in self.models.values():
            if model.state == "failing" and why.startswith(f"{model.name}: "):
                model.strikes += 1
                if model.strikes >= STRIKES and self.staging.has(model.name):
                    self.staging.remove(model.name)
                    model.is_now("refused", f"set aside until its files change: {model.reason}")

    # The repository

    def _take_again(self) -> None:
        """Have models taken again whose copies failed, or were deleted, as by a cleaner."""
        for name, model in self.models.items():
            gone = model.state != "refused" and not self.staging.has(name)
            if time.monotonic() - self.failed.get(name, math.inf) > RETRY_SECONDS:
                del self.failed[name]
                gone = True
            if gone and name in self.repository.taken:
                self.repository.taken[name] = frozenset()

    def _drop(self, name: str) -> None:
        self.engines.pop(name, None)
        self.failed.pop(name, None)
        self.staging.remove(name)
        model = self.models.get(name)
        if model and model.state == "refused":  # Triton does not know it
            del self.models[name]

    async def _take(self, signatures: Mapping[str, Signature]) -> None:
        """Copy and check models, and publish their sound versions to Triton."""
        copies: dict[str, Path] = {}
        for name in signatures:
            try:
                copies[name] = await asyncio.to_thread(self.staging.copy, name)
                self.failed.pop(name, None)
            except OSError as error:
                self.failed[name] = time.monotonic()
                self.repository.taken[name] = signatures[name]
                model = self.models.setdefault(name, Model(name))
                where = str(error.filename).removeprefix(f"{self.repository.source}{os.sep}")
                model.refused = {"-": printable(f"cannot be copied: {where}: {error.strerror}")}
                if self.staging.has(name):  # the copy of before goes on serving
                    log.warning("%s: %s", name, model.refused["-"])
                else:
                    model.is_now("refused", model.refused["-"])
        for name, reasons in (await check(copies)).items():
            good = [version for version, reason in reasons.items() if not reason]
            model = self.models.setdefault(name, Model(name))
            model.refused = {version: reason for version, reason in reasons.items() if reason}
            for version, reason in model.refused.items():
                log.warning("%s: version %s set aside: %s", name, version, reason)
            if good:
                self.staging.publish(name, good)
                await asyncio.to_thread(self._open, name)
                if model.state == "refused":
                    model.is_now("loading")
            elif not self.staging.has(name):  # else the copy goes on serving
                model.is_now("refused", "; ".join(dict.fromkeys(model.refused.values())))
            self.repository.taken[name] = signatures[name]

    def _open(self, name: str) -> None:
        """Open the newest version in this process too, for the door to run without gRPC."""
        folder = self.staging.live / name
        self.engines.pop(name, None)
        if name.endswith(JPEG):
            return
        with suppress(UserError):  # no ONNX file, or a model that nano-cv did not export
            newest = max(served_versions(folder, read_config(folder / CONFIG)), default=0)
            # One thread, as the door runs one per core.
            engine = Onnx(folder / str(newest) / "model.onnx", 1)
            # Triton describes a new model itself, but a new version only seconds later.
            model = self.models.get(name, Model(name))
            model.metadata, model.figures = engine.metadata, engine.figures
            if engine.metadata.task != "generation":  # slow, so it belongs in Triton's queue
                self.engines[name] = engine
