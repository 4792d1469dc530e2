"""Loads the models, asks them for answers, and mends those that give none."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from nano_cv.errors import one_line
from nano_cv.serving.checking import Found, check
from nano_cv.serving.control import Control, HangError, LoadError
from nano_cv.serving.models import Model
from nano_cv.serving.repository import parts_of, signature, versions_of
from nano_cv.serving.server import Server, is_dead, is_stopped, kill
from nano_cv.serving.staging import Staging

log = logging.getLogger(__name__)

LOAD_SECONDS = 300
LEAVE_SECONDS = 2  # for the living stubs of a model of which one has died
UNHEALTHY = "is not healthy"  # what Triton says of a stub that it cannot reach


class Keeper:
    """The models of one server."""

    def __init__(self, staging: Staging, server: Server, control: Control, deadline: float) -> None:
        """Nothing is loaded yet.

        Args:
            staging: from where Triton loads.
            server: whose child processes run the models.
            control: a connection to the server.
            deadline: seconds in which a model must answer.
        """
        self.staging, self.server, self.control = staging, server, control
        self.deadline = deadline
        self.models: dict[str, Model] = {}
        self.mending: set[asyncio.Task[None]] = set()

    @property
    def all_ready(self) -> bool:
        """Whether every model answers."""
        return all(model.state == "ready" for model in self.models.values())

    # From the repository to the server

    async def take(self, names: Iterable[str], start: Awaitable[None] | None = None) -> None:
        """Check what is new, while the server may start, and serve of it what is sound."""
        checked = self._check(names)
        found = (await asyncio.gather(checked, start))[0] if start else await checked
        await self._in_order(found, lambda model: self._take(model, found[model.name]))
        await self.ask_all()

    async def load_again(self) -> None:
        """Load everything that had been accepted into a new server."""
        await self._in_order(filter(self.staging.has, self.models), self._load)
        await self.ask_all()

    async def remove(self, name: str) -> None:
        """Unload a model that has gone from the repository."""
        async with self.models[name].lock:
            del self.models[name]
            self.staging.remove(name)
            log.warning("%s: removed from the repository, unloaded", name)
            try:
                await self.control.unload(name, LOAD_SECONDS)
            except LoadError as error:
                log.warning("%s: %s", name, one_line(error))

    async def _check(self, names: Iterable[str]) -> dict[str, Found]:
        """Copy the models and check each version of each."""
        copies: dict[str, Path] = {}
        for name in names:
            model = self.models.setdefault(name, Model(name))
            model.seen = signature(self.staging.source / name)
            try:
                copies[name] = self.staging.copy(name)
            except OSError as error:
                log.warning("%s: %s", name, one_line(error))
                model.seen = frozenset()  # it will be looked at again
                continue
            model.ensemble = bool(parts_of(copies[name]))
        return await check(self.staging.source, copies)

    async def _take(self, model: Model, found: Found) -> None:
        """Load the versions that passed; if Triton refuses them, all but the newest."""
        model.refused = {version: reason for version, reason in found.items() if reason}
        good = [version for version, reason in found.items() if not reason]
        served = same = self.staging.is_live(model.name, good)
        published = False
        while good and not served:
            self.staging.publish(model.name, good)
            published, served = True, await self._load(model)
            if not served:
                model.refused[good.pop()] = model.reason
        if not served:
            served = (self.staging.restore if published else self.staging.has)(model.name)
        self.staging.settle(model.name)
        if self.server.ended:
            model.seen = frozenset()  # that says nothing of the model: look again
            return
        for version, reason in model.refused.items():
            log.warning("%s: version %s refused: %s", model.name, version, reason)
        if not served:
            model.is_now("refused", "; ".join(model.refused.values()))
        elif not same:
            model.state = "loading"

    async def _in_order(
        self, names: Iterable[str], work: Callable[[Model], Awaitable[object]]
    ) -> None:
        """Do it for each model, a few at a time, and for ensembles after their parts."""
        several = asyncio.Semaphore(os.cpu_count() or 1)

        async def one(model: Model) -> None:
            async with several, model.lock:
                await work(model)

        models = [self.models[name] for name in names]
        for ensembles in (False, True):
            await asyncio.gather(*(one(model) for model in models if model.ensemble == ensembles))

    async def _load(self, model: Model) -> bool:
        """Have Triton load what is staged, and learn which processes run it."""
        before = self.server.stubs(self.staging.live).get(model.name, set())
        start = time.monotonic()
        try:
            await self.control.load(model.name, LOAD_SECONDS)
            model.request = await self.control.probe_of(model.name)
        except LoadError as error:
            model.is_now("failing", one_line(error))
            return False
        # What ran before is of a version that is retired as soon as it has answered.
        stubs = self.server.stubs(self.staging.live).get(model.name, set())
        model.stubs = stubs - before or model.stubs
        model.versions = versions_of(self.staging.live / model.name)
        log.info("%s: loaded in %.1f s", model.name, time.monotonic() - start)
        return True

    # Watching

    def look(self) -> None:
        """Mend the models of which a process has died, and kill a process that was stopped."""
        for model in self.models.values():
            if model.lock.locked():
                continue  # being loaded or mended
            for stub in filter(is_stopped, model.stubs):
                log.warning("%s: process %d was stopped; killed", model.name, stub.pid)
                kill(stub)
            dead = [stub.pid for stub in model.stubs if is_dead(stub)]
            if dead and self._replaced(model):
                continue
            if dead and model.name not in {task.get_name() for task in self.mending}:
                work = self._mend(model, f"process {dead[0]} died")
                task = asyncio.create_task(work, name=model.name)
                self.mending.add(task)
                task.add_done_callback(self.mending.discard)

    def _replaced(self, model: Model) -> bool:
        """Whether Triton has loaded the model by itself, as a part of an ensemble."""
        last = max(stub.create_time() for stub in model.stubs)
        stubs = self.server.stubs(self.staging.live).get(model.name, set())
        newer = {stub for stub in stubs if stub.create_time() > last}
        model.stubs = newer or model.stubs
        return bool(newer)

    async def _mend(self, model: Model, why: str) -> None:
        """Unload and load: what Triton needs to start a new process for a model."""
        async with model.lock:
            model.restarts += 1
            model.is_now("restarting", why)
            await asyncio.sleep(model.backoff.next())
            old = model.stubs
            try:
                await self.control.unload(model.name, LOAD_SECONDS)
                await self._load(model)
            except LoadError as error:
                model.is_now("failing", one_line(error))
        await self.ask_all()  # an ensemble that has this part answers again, too
        await asyncio.sleep(LEAVE_SECONDS)
        for stub in old - model.stubs:
            kill(stub)  # Triton waits for ever to retire a model of which one process is dead

    async def ask_all(self) -> None:
        """Ask every model for an answer."""
        await asyncio.gather(*(self._ask(model) for model in list(self.models.values())))

    async def _ask(self, model: Model) -> None:
        """Ask the model for an answer, and kill its processes if it hangs."""
        if model.lock.locked() or model.request is None or model.state == "refused":
            return  # being mended already, or nothing is there
        hangs = False
        try:
            problem = await self.control.ask(model.request, self.deadline)
        except HangError as error:
            problem, hangs = str(error), True
        if model.lock.locked():
            return
        if not problem:
            model.last_good = time.time()
            model.is_now("ready")
            return
        model.is_now("failing", problem)
        if hangs or UNHEALTHY in problem:
            for stub in model.stubs:
                kill(stub)  # which `look` will see
