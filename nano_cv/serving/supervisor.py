"""Backends that use a Triton server; `Supervisor` restarts Triton after failures.

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
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from numpy.typing import NDArray
from omegaconf import DictConfig

from nano_cv.errors import UserError, one_line
from nano_cv.evaluation.bfloat16 import HINT
from nano_cv.evaluation.exported import Onnx
from nano_cv.export.triton_config import CONFIG, read_config, served_versions
from nano_cv.metadata import JPEG, KEY, Metadata
from nano_cv.serving import repository, triton
from nano_cv.serving.backend import Arrays, Backend, Model
from nano_cv.serving.checking import check
from nano_cv.serving.connection import Connection, LostError, question_for
from nano_cv.serving.process import Server, is_stopped
from nano_cv.serving.staging import Staging

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25  # between two looks at the processes
START_SECONDS = 120  # limit of a start, which ends when all models are loaded
STRIKES = 2  # a model that stops the server this often without an answer is set aside
QUIET_SECONDS = 60  # a restart so long after the last starts without a wait
LONGEST_WAIT = 30  # seconds before a restart; the wait begins at 0 and grows with each restart
KILLS = 2  # a request during which the server was lost this often is not sent again


class Watched(Backend):
    """Backend that uses a Triton started by somebody else, which it tests but cannot restart.

    Args:
        address: HOST:PORT of Triton's gRPC endpoint.
        config: the configuration of `configs/serve.yaml`.
    """

    def __init__(self, address: str, config: DictConfig) -> None:
        super().__init__()
        self.address, self.config, self.connection = address, config, Connection(address)
        self.doubt = asyncio.Event()  # set when a request fails, to test the models at once
        self.up = asyncio.Event()  # cleared while the server is being started

    async def start(self) -> None:
        """See `Backend`."""
        try:
            await self.look()
        except LostError as error:
            raise UserError(
                f"triton={self.address}: no Triton server answers there by gRPC ({one_line(error)})"
            ) from error
        with suppress(LostError):  # raised for a lost model, whose state is now `failing`
            await self.ask_all()
        self.check_any()
        self.state = "serving"
        self.up.set()

    async def watch(self) -> None:
        """See `Backend`."""
        while True:
            await self._pause(self.config.probe_seconds)
            try:
                await self.look()
                await self.ask_all()
            except LostError as error:
                for model in self.models.values():
                    model.is_now("failing", one_line(error))

    async def _pause(self, seconds: float) -> None:
        """Sleep for `seconds`, or shorter if a request fails meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self.doubt.wait()
        except TimeoutError:
            pass
        self.doubt.clear()

    async def stop(self) -> None:
        """See `Backend`."""
        await self.connection.channel.close()

    async def infer(self, name: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Backend`; the request is sent again if the server is lost meanwhile."""
        restarts = self.restarts
        while True:
            await self.up.wait()
            try:
                return await self.connection.infer(name, inputs, self.config.answer_seconds)
            except LostError:
                if self.restarts - restarts >= KILLS:
                    raise  # this request may be the cause, so it must not stop the server again
                self.doubt.set()
                await asyncio.sleep(0.1)

    async def figures(self) -> list[Any]:
        """See `Backend`."""
        return await self.connection.statistics()

    async def look(self) -> None:
        """Update the states of all models from Triton's index, and read configs of new versions."""
        index = await self.connection.index(self.config.probe_deadline_seconds)
        for name in self.models.keys() - index.keys():
            self.forget(name)
        for name, versions in index.items():
            model = self.models.setdefault(name, Model(name))
            ready = [one.version for one in versions if one.state == "READY"]
            for one in versions:
                if one.state == "UNAVAILABLE" and one.reason not in ("", "unloaded"):
                    model.refused[one.version] = " ".join(one.reason.split())
            if not ready:
                model.question = None
                if not model.refused:  # Triton has only just found it
                    model.state = "loading"
                elif model.state != "refused":
                    model.is_now("refused", "; ".join(model.refused.values()))
            elif model.question is None or model.versions != ready:
                await self._learn(model, ready)

    def forget(self, name: str) -> None:
        """Forget a model that Triton no longer lists."""
        del self.models[name]
        log.warning("%s: unloaded", name)

    async def _learn(self, model: Model, versions: list[str]) -> None:
        """Read the configuration of a model that has new versions."""
        try:
            config = await self.connection.config(model.name)
        except LostError:
            return  # the model was unloaded a moment ago; the next look will see that
        model.question, model.versions = question_for(model.name, config), versions
        model.batch = max(1, config.max_batch_size)
        model.instances = sum(group.count for group in config.instance_group) * len(versions)
        try:
            given = config.parameters[KEY].string_value
            model.metadata = Metadata.from_json(given) if given else None
        except ValueError:
            model.metadata = None
        if model.state == "refused":
            model.is_now("loading")

    async def ask_all(self) -> None:
        """Send a test request to every model that is loaded.

        Raises:
            LostError: models answer no client; the message names them.
        """
        asked = [model for model in self.models.values() if model.question is not None]
        lost = [why for why in await asyncio.gather(*map(self._ask, asked)) if why]
        if lost:
            raise LostError("; ".join(lost))

    async def _ask(self, model: Model) -> str:
        """Test a model; return the reason to restart the server, empty if there is none."""
        assert model.question is not None
        try:
            problem = await self.connection.ask(model.question, self.config.probe_deadline_seconds)
        except LostError as error:
            model.is_now("failing", one_line(error))
            return f"{model.name}: {model.reason}"
        model.is_now("failing" if problem else "ready", problem)
        return ""


class Supervisor(Watched):
    """Backend that starts a Triton of its own, watches it, restarts it, and stops it.

    Args:
        wheel: from `triton.find_wheel`.
        config: the configuration of `configs/serve.yaml`.
        folder: the folder for Triton's log.
    """

    def __init__(self, wheel: triton.Wheel, config: DictConfig, folder: Path) -> None:
        super().__init__(f"{triton.LOOPBACK}:{config.grpc_port}", config)
        self.restarted, self.wait = -1e9, 0.0  # time of the last restart, and the wait before it
        self.area = Path(tempfile.mkdtemp(prefix="nano_cv_serve_"))  # only its owner can enter
        # systemd deletes old files in /tmp, but not below a folder that is locked.
        self.lock = os.open(self.area, os.O_RDONLY)
        fcntl.flock(self.lock, fcntl.LOCK_SH)
        self.staging = Staging(Path(config.paths.models), self.area)
        self.seen: dict[str, repository.Signature] = {}  # signature of each model when checked
        self.lacking: set[str] = set()  # models that had too few processes at the last look
        prefix = f"nano_cv_{config.grpc_port}_"
        line = triton.command(
            wheel,
            triton.make_backends(wheel, self.area / "backends"),
            self.staging.live,
            config.grpc_port,
            exit_timeout=round(config.exit_timeout_seconds),
            poll=True,
        )
        line += [f"--backend-config=python,shm-region-prefix-name={prefix}"]
        environment = triton.environment(wheel)
        self.server = Server(line, environment, folder / "triton.log", prefix, self.area)

    async def start(self) -> None:
        """See `Backend`."""
        source = self.staging.source
        names = repository.wanted_models(source, self.config.models)
        await self._take({name: repository.signature(source / name) for name in names})
        try:
            await self._start_server()
        except LostError as error:
            await self._restart(one_line(error))
        self.check_any()
        self.state = "serving"

    async def stop(self) -> None:
        """See `Backend`."""
        await self.server.stop(self.config.exit_timeout_seconds)
        await super().stop()
        os.close(self.lock)
        shutil.rmtree(self.area, ignore_errors=True)

    async def watch(self) -> None:
        """See `Backend`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_server())
            tasks.create_task(self._watch_repository())

    # The server

    async def _watch_server(self) -> None:
        while True:
            try:
                why = await self._until_lost()
            except LostError as error:
                why = one_line(error)
            except (OSError, psutil.Error) as error:  # such as too many open files
                log.warning("the watch goes on: %s", one_line(error))
                await asyncio.sleep(LOOK_SECONDS)
                continue
            await self._restart(why)

    async def _until_lost(self) -> str:
        """Watch the processes and test the models; return the reason once a restart is needed."""
        asked = 0.0
        while True:
            doubted = self.doubt.is_set()
            await self._pause(LOOK_SECONDS)
            if self.server.ended:
                return f"tritonserver {self.server.ended}"
            if why := await asyncio.to_thread(self._lost_process):
                return why
            if doubted or time.monotonic() - asked > self.config.probe_seconds:
                asked = time.monotonic()
                await self.look()
                await self.ask_all()

    def _lost_process(self) -> str:
        """Say which process is stopped or missing, for Triton restarts none; empty if all run."""
        stubs = self.server.stubs(self.staging.live)
        processes = [process for some in stubs.values() for process in some]
        for process in (psutil.Process(self.server.pid), *processes):
            if is_stopped(process):
                return f"process {process.pid} was stopped"
        # While a model is loaded again or unloaded, the number of its processes changes. So only
        # a ready model that lacks processes at two looks in a row has lost them.
        before = self.lacking
        self.lacking = {
            name
            for name, model in self.models.items()
            if model.state == "ready" and len(stubs.get(name, ())) < model.instances
        }
        lost = sorted(before & self.lacking)
        return f"{lost[0]}: a process died" if lost else ""

    async def _start_server(self) -> None:
        """Start Triton and wait until it has loaded or refused every model.

        Raises:
            UserError: Triton ends, or is not ready in `START_SECONDS`.
        """
        self.lacking = set()
        self.server.start()
        end = time.monotonic() + START_SECONDS
        for model in self.models.values():
            model.question = None  # so that `look` reads the model's configuration again
        while True:
            with suppress(LostError):
                await self.look()
                break
            if self.server.ended or time.monotonic() > end:
                how = self.server.ended or f"not ready after {START_SECONDS} s"
                raise UserError(f"Triton {how}\n{self.server.tail()}\nmore in {self.server.log}")
            await asyncio.sleep(0.05)
        await self.ask_all()
        self.up.set()

    async def _restart(self, why: str) -> None:
        """Restart Triton until a start succeeds, with a longer wait before each attempt."""
        self.state, self.restarts = "restarting", self.restarts + 1
        self.up.clear()
        while self.state == "restarting":
            self._strike(why)
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
            except (UserError, LostError) as error:
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

    async def _watch_repository(self) -> None:
        last = dict(self.seen)
        while True:
            await asyncio.sleep(self.config.poll_seconds)
            try:
                last = await self._take_changes(last)
            except OSError as error:  # such as too many open files
                log.warning("the repository is looked at again: %s", one_line(error))

    async def _take_changes(
        self, last: dict[str, repository.Signature]
    ) -> dict[str, repository.Signature]:
        """Take over models that changed, but not since the `last` look; return this look."""
        now = await asyncio.to_thread(self._signatures)
        for name in self.seen.keys() - now.keys():
            del self.seen[name]
            self.engines.pop(name, None)
            self.staging.remove(name)
            log.warning("%s: removed from the repository", name)
        changed = {
            name: signature
            for name, signature in now.items()
            if self.seen.get(name) != signature or self._copy_is_gone(name)
        }
        # Somebody may still be copying files in, so a model must be the same at two looks.
        settled = {name: one for name, one in changed.items() if last.get(name) == one}
        if settled:
            await self._take(settled)
        return now

    def _copy_is_gone(self, name: str) -> bool:
        """Return whether the copy that Triton reads was deleted, as by a cleaner of old files."""
        model = self.models.get(name)
        return model is not None and model.state != "refused" and not self.staging.has(name)

    def _signatures(self) -> dict[str, repository.Signature]:
        source = self.staging.source
        try:
            names = repository.wanted_models(source, self.config.models)
        except UserError:  # some or all models are gone: serve those that are left
            left = {folder.name for folder in repository.folders(source)}
            names = [name for name in self.seen if name in left]
        return {name: repository.signature(source / name) for name in names}

    async def _take(self, signatures: dict[str, repository.Signature]) -> None:
        """Copy and check models, and publish their sound versions to Triton."""
        copies: dict[str, Path] = {}
        for name, signature in signatures.items():
            try:
                copies[name] = await asyncio.to_thread(self.staging.copy, name)
                self.seen[name] = signature
            except OSError as error:  # the next look tries the model again
                log.warning("%s: %s", name, one_line(error))
        for name, found in (await check(self.staging.source, copies)).items():
            good = [version for version, reason in found.items() if not reason]
            model = self.models.setdefault(name, Model(name))
            model.refused = {version: reason for version, reason in found.items() if reason}
            for version, reason in model.refused.items():
                log.warning("%s: version %s set aside: %s", name, version, reason)
            if good:
                self.staging.publish(name, good)
                await asyncio.to_thread(self._open, name)
                if model.state == "refused":
                    model.is_now("loading")
            elif not self.staging.has(name):  # else the copy goes on serving
                model.is_now("refused", "; ".join(model.refused.values()))

    def _open(self, name: str) -> None:
        """Open the newest version in this process too, for the door to run without gRPC."""
        folder = self.staging.live / name
        config = read_config(folder / CONFIG)
        file = folder / str(max(served_versions(folder, config), default=0)) / "model.onnx"
        given = {key: one.string_value for key, one in config.parameters.items()}
        entries = {key: text for key, text in given.items() if "." in key or key == HINT}
        self.engines.pop(name, None)
        if name.endswith(JPEG):
            return
        with suppress(UserError):  # no ONNX file, or a model that nano-cv did not export
            engine = Onnx(file, 1, entries)  # one thread, as the door runs one per core
            if engine.metadata.task != "generation":  # slow, so it belongs in Triton's queue
                self.engines[name] = engine

    async def look(self) -> None:
        """See `Watched`; also remove versions that Triton refused, for the next start."""
        await super().look()
        for name, model in self.models.items():
            for version, reason in model.refused.items():
                if self.staging.set_aside(name, version):
                    log.warning("%s: version %s set aside: %s", name, version, reason)

    def forget(self, name: str) -> None:
        """See `Watched`; a model that is still in the repository keeps its entry and reason."""
        model = self.models[name]
        if name not in self.seen:
            super().forget(name)
        elif model.state != "refused":
            model.state, model.question = "loading", None
