"""The Triton process: started so that it dies with us, watched, stopped, and cleared up after."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from nano_cv.serving.triton import PROJECT

SHARED_MEMORY = Path("/dev/shm")
POLL_SECONDS = 0.05

# Started through this line, for a signal at the parent's death outlives `exec`, and Python between
# `fork` and `exec` in a process with threads may hang.
STARTER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

# Outlives us, if need be: a stub that was just being started does not notice the end of its server.
CARETAKER = """
import glob, os, shutil, signal, sys
sys.stdin.read()  # ends when the supervisor does, however it ends
try:
    os.killpg(int(sys.argv[1]), signal.SIGKILL)
except ProcessLookupError:
    pass
for file in glob.glob(sys.argv[2] + "*"):
    os.unlink(file)
shutil.rmtree(sys.argv[3], ignore_errors=True)
"""


def dying_with_us(line: Sequence[str]) -> list[str]:
    """The command line that runs `line` and is killed when this process ends, however it ends."""
    return [sys.executable, "-I", "-S", "-c", STARTER, str(os.getpid()), *line]


class Server:
    """One tritonserver at a time, and the stub processes that run its models."""

    def __init__(
        self,
        line: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        prefix: str,
        area: Path,
    ) -> None:
        """Nothing is started yet.

        Args:
            line: from `triton.command`.
            environment: from `triton.environment`.
            log: the file to which the output is added.
            prefix: how the names of its shared memory begin.
            area: the folder to be removed if we are killed.
        """
        self.line, self.environment, self.log, self.area = line, environment, log, area
        self.memory = SHARED_MEMORY / prefix
        self.process: subprocess.Popen[bytes] | None = None
        self.caretaker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; `stop` or `kill` the last one before."""
        self._clear()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                dying_with_us(self.line),
                env=dict(self.environment),
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, not for the requests in flight
            )
        words = [str(self.process.pid), str(self.memory), str(self.area)]
        self.caretaker = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", CARETAKER, *words],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        assert self.process is not None
        return self.process.pid

    @property
    def ended(self) -> str:
        """How the process ended, or nothing while it runs."""
        if self.process is None:
            return "not started"
        status = self.process.poll()
        if status is None:
            return ""
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"

    def stubs(self, repository: Path) -> dict[str, set[psutil.Process]]:
        """The stub processes of each model; their first argument is the model's file."""
        found: dict[str, set[psutil.Process]] = {}
        for number in _children(self.pid) if self.process else []:
            try:
                child = psutil.Process(number)
                file = Path(child.cmdline()[1])
                found.setdefault(file.relative_to(repository).parts[0], set()).add(child)
            except (psutil.Error, IndexError, ValueError):
                continue  # gone, or not yet more than a copy of the server
        return found

    async def stop(self, seconds: float) -> None:
        """Let it answer what is in flight, for `seconds` at most, and clear up."""
        if self.process and not self.ended:
            end = time.monotonic() + seconds
            self.process.terminate()
            while not self.ended and time.monotonic() < end:
                await asyncio.sleep(POLL_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process and its stubs at once, and clear up."""
        if self.process:
            with suppress(ProcessLookupError):  # the group: a stub that hangs notices nothing
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
        if self.caretaker:
            self.caretaker.kill()
            self.caretaker.communicate()
            self.caretaker = None
        self._clear()

    def tail(self, lines: int = 8) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _clear(self) -> None:
        for file in self.memory.parent.glob(f"{self.memory.name}*"):
            file.unlink(missing_ok=True)


def _children(pid: int) -> list[int]:
    """The child processes, by what each thread has: psutil would look at the whole machine."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended since
            found += map(int, file.read_text().split())
    if not found:  # not every kernel tells
        with suppress(psutil.Error):
            found = [child.pid for child in psutil.Process(pid).children()]
    return found


def is_stopped(process: psutil.Process) -> bool:
    """Whether it was sent SIGSTOP."""
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
