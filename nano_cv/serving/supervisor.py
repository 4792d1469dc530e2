"""Keeps a Triton serving: what Triton itself does not notice is noticed and mended here.

A stub process that dies stays dead in Triton, whose ready endpoints go on saying 200; a stub that
hangs can abort the server. So the processes are watched, every model is asked for an answer now and
then, a sick model is unloaded and loaded, and a server that ends is started again. The repository
is watched too: what is new in it and sound is loaded while the old version serves.
"""

import asyncio
import logging
import os
import secrets
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_cv.errors import UserError, one_line
from nano_cv.serving import metrics, repository, triton
from nano_cv.serving.control import KEY, RESTRICTED, Control
from nano_cv.serving.health import TEXT, Page, Pages, as_json
from nano_cv.serving.http_guard import Guard
from nano_cv.serving.keeper import Keeper
from nano_cv.serving.models import Backoff
from nano_cv.serving.server import Server
from nano_cv.serving.staging import Staging

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # between two looks at the processes
START_SECONDS = 30  # Triton without models is there in one
DEAF_PROBES = 3  # a server that does not answer so many times is killed


@dataclass(frozen=True)
class Settings:
    """The keys of `configs/serve.yaml` that matter here, and two folders."""

    repository: Path
    models: list[str] | None
    folder: Path  # of the run: logs
    area: Path  # emptied at the start and removed at the end
    grpc_port: int
    http_port: int | None
    metrics_port: int
    health_port: int
    probe_seconds: float
    probe_deadline_seconds: float
    poll_seconds: float
    exit_timeout_seconds: float
    max_request_bytes: int
    receive_seconds: float
    watch: bool

    @property
    def ports(self) -> dict[str, int | None]:
        """Those that others use, under their keys."""
        return {
            "grpc_port": self.grpc_port,
            "http_port": self.http_port,
            "metrics_port": self.metrics_port,
            "health_port": self.health_port,
        }


class Supervisor:
    """One run of `serve.py`; made inside the event loop that runs it."""

    def __init__(self, wheel: triton.Wheel, settings: Settings) -> None:
        """Lay out the folders; start nothing."""
        self.settings, self.state, self.restarts = settings, "starting", 0
        self.backoff, self.stopping = Backoff(), asyncio.Event()
        shutil.rmtree(settings.area, ignore_errors=True)  # of a run that was killed
        staging = Staging(settings.repository, settings.area.absolute())
        secret = secrets.token_hex()
        self.triton_metrics, self.triton_http = triton.free_ports(2)  # behind ours
        prefix = f"nano_cv_{settings.grpc_port}_"
        line = triton.command(
            wheel,
            triton.make_backends(wheel, settings.area / "backends"),
            staging.live,
            {
                "grpc": settings.grpc_port,
                "metrics": self.triton_metrics,
                "http": self.triton_http if settings.http_port else 0,
            },
            models=[],
            exit_timeout=round(settings.exit_timeout_seconds),
        )
        line += [f"--backend-config=python,shm-region-prefix-name={prefix}"]
        line += [f"--grpc-restricted-protocol={RESTRICTED}:{KEY}={secret}"]
        line += [f"--http-restricted-api={RESTRICTED}:{KEY}={secret}"] * bool(settings.http_port)
        log_file = settings.folder / "triton.log"
        self.server = Server(line, triton.environment(wheel), log_file, prefix, settings.area)
        self.control = Control(settings.grpc_port, secret)
        self.keeper = Keeper(staging, self.server, self.control, settings.probe_deadline_seconds)
        self.guard = Guard(self.triton_http, settings.max_request_bytes, settings.receive_seconds)
        self.health_pages = Pages({"/health": self.health, "/live": self.live})
        self.metrics_pages = Pages({"/metrics": self.figures})

    async def run(self, show: Callable[["Supervisor"], Awaitable[None]]) -> None:
        """Serve until SIGTERM or Ctrl-C; `show` runs beside it once all is ready.

        Raises:
            UserError: the server does not start, or no model can be served.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled)
        try:
            await self._until_stopped(self._start())
            if self.state == "serving":
                await self._until_stopped(
                    show(self), self._watch_server(), self._watch_models(), self._watch_repository()
                )
        finally:
            await self._stop()

    async def _until_stopped(self, *work: Awaitable[None]) -> None:
        """Until all of `work` is done, or one of it fails, or it is time to stop."""
        tasks = [asyncio.ensure_future(item) for item in work]
        done: asyncio.Future[Any] = asyncio.gather(*tasks)
        stop: asyncio.Future[Any] = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({stop, done}, return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                done.result()
        finally:
            for task in (*tasks, stop):
                task.cancel()
            await asyncio.gather(done, stop, *tasks, return_exceptions=True)

    def _signalled(self) -> None:
        if self.stopping.is_set():
            log.warning("killed; requests in flight are lost")
            self.server.kill()
            shutil.rmtree(self.settings.area, ignore_errors=True)
            os._exit(128 + signal.SIGINT)
        self.stopping.set()

    async def _start(self) -> None:
        await self.health_pages.start(self.settings.health_port)
        await self.metrics_pages.start(self.settings.metrics_port)
        names = repository.wanted_models(self.settings.repository, self.settings.models)
        await self.keeper.take(names, self._start_server())
        models = self.keeper.models.values()
        if not any(model.state == "ready" for model in models):
            reasons = [f"{model.name}: {model.reason}" for model in models]
            raise UserError("\n".join(["no model can be served", *reasons]))
        if self.settings.http_port:
            await self.guard.start(self.settings.http_port)
        self.state = "serving"

    async def _stop(self) -> None:
        seconds = self.settings.exit_timeout_seconds
        if self.state != "starting":
            log.info("stopping: requests in flight have %g s; Ctrl-C ends them now", seconds)
        self.state = "draining"
        await self.guard.drain(seconds)
        await self.server.stop(seconds)
        await self.health_pages.stop()
        await self.metrics_pages.stop()
        await self.control.channel.close()
        shutil.rmtree(self.settings.area, ignore_errors=True)

    # Watching

    async def _start_server(self) -> None:
        self.server.start()
        end = time.monotonic() + START_SECONDS
        while not await self.control.is_live(1):
            if self.server.ended or time.monotonic() > end:
                how = self.server.ended or f"not ready after {START_SECONDS} s"
                raise UserError(f"Triton {how}\n{self.server.tail()}\nmore in {self.server.log}")
            await asyncio.sleep(LOOK_SECONDS)

    async def _restart_server(self, why: str) -> None:
        """Until it runs again."""
        self.restarts += 1
        self.state = "restarting"
        for model in filter(lambda model: model.state != "refused", self.keeper.models.values()):
            model.is_now("restarting", f"tritonserver {why}")
        while self.state == "restarting":
            self.server.kill()
            wait = self.backoff.next()
            log.warning("tritonserver %s; starting it again in %g s", why, wait)
            await asyncio.sleep(wait)
            try:
                await self._start_server()
                self.state = "serving"
            except UserError as error:
                why = one_line(error)
        await self.keeper.load_again()

    async def _watch_server(self) -> None:
        deaf, asked = 0, time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.keeper.look()
            if time.monotonic() - asked > self.settings.probe_seconds:
                live = await self.control.is_live(self.settings.probe_deadline_seconds)
                deaf, asked = 0 if live else deaf + 1, time.monotonic()
            if self.server.ended:
                await self._restart_server(self.server.ended)
            elif self.server.stopped or deaf >= DEAF_PROBES:
                await self._restart_server("was stopped" if self.server.stopped else "hangs")
                deaf = 0

    async def _watch_models(self) -> None:
        while True:
            await asyncio.sleep(self.settings.probe_seconds)
            await self.keeper.ask_all()

    async def _watch_repository(self) -> None:
        last: dict[str, repository.Signature] = {}
        while True:
            await asyncio.sleep(self.settings.poll_seconds)
            now = self._look()
            models = self.keeper.models
            for name in models.keys() - now.keys():
                await self.keeper.remove(name)
            changed = [name for name in now if name not in models or models[name].seen != now[name]]
            settled = [name for name in changed if last.get(name) == now[name]]  # none is copying
            last = now
            if settled and self.state == "serving":
                await self.keeper.take(settled)

    def _look(self) -> dict[str, repository.Signature]:
        source = self.settings.repository
        try:
            names = repository.wanted_models(source, self.settings.models)
        except UserError:  # all is gone, or one that was asked for: serve what is left
            left = {folder.name for folder in repository.folders(source)}
            names = [name for name in self.keeper.models if name in left]
        return {name: repository.signature(source / name) for name in names}

    # What we say of it

    def health(self) -> Page:
        """Every model, and 200 only if all of them answer."""
        good = self.state == "serving" and self.keeper.all_ready
        status = "ok" if good else "degraded" if self.state == "serving" else self.state
        models = {name: model.shown() for name, model in self.keeper.models.items()}
        content = {"status": status, "server_restarts": self.restarts, "models": models}
        return as_json(200 if good else 503, content)

    def live(self) -> Page:
        """That somebody is here."""
        return 200, TEXT, "live\n"

    async def figures(self) -> Page:
        """Triton's figures, and what Triton cannot know."""
        text = await metrics.fetch(self.triton_metrics)
        return 200, TEXT, text + metrics.own_metrics(self.states(), self.restarts)

    def states(self) -> dict[str, metrics.State]:
        """Of each model."""
        return {
            name: metrics.State(model.state, model.reason, model.restarts)
            for name, model in self.keeper.models.items()
        }
