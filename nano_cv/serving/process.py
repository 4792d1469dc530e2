"""Process of tritonserver, started so that it ends whenever this process does, even if killed."""

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

# Program that asks Linux to kill it when its parent dies, and then becomes the wanted command. It
# is a program because a `preexec_fn` (Python between `fork` and `exec`) may hang with threads.
STARTER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

# Program that clears up after us: a stub that is just starting misses the end of its server.
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
    """Return a command that runs `line` and is killed when this process ends, for any reason."""
    return [sys.executable, "-I", "-S", "-c", STARTER, str(os.getpid()), *line]


class Server:
    """Process of tritonserver and the stub processes that run its models."""

    def __init__(
        self,
        line: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        prefix: str,
        area: Path,
    ) -> None:
        """Remember the command; `start` runs it.

        Args:
            line: from `triton.command`.
            environment: from `triton.environment`.
            log: the file to which the server's output is appended.
            prefix: start of the file names of the server's shared memory.
            area: the folder to remove if this process is killed.
        """
        self.line, self.environment, self.log, self.area = line, environment, log, area
        self.memory = SHARED_MEMORY / prefix
        self.process: subprocess.Popen[bytes] | None = None
        self.caretaker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start tritonserver; call `stop` or `kill` first if it was started before."""
        self._clear()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                dying_with_us(self.line),
                env=dict(self.environment),
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C does not end the requests in flight
            )
        words = [str(self.process.pid), str(self.memory), str(self.area)]
        self.caretaker = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", CARETAKER, *words],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Process id of tritonserver."""
        assert self.process is not None
        return self.process.pid

    @property
    def ended(self) -> str:
        """How tritonserver ended, such as `ended by SIGKILL`; empty while it runs."""
        if self.process is None:
            return "not started"
        status = self.process.poll()
        if status is None:
            return ""
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"

    def stubs(self, repository: Path) -> dict[str, set[psutil.Process]]:
        """Return each model's stub processes, whose first argument is the model's file."""
        found: dict[str, set[psutil.Process]] = {}
        for number in _children(self.pid) if self.process else []:
            try:
                child = psutil.Process(number)
                file = Path(child.cmdline()[1])
                found.setdefault(file.relative_to(repository).parts[0], set()).add(child)
            except (psutil.Error, IndexError, ValueError):
                continue  # the child has ended, or has only just been forked from the server
        return found

    async def stop(self, seconds: float) -> None:
        """Stop tritonserver, with at most `seconds` for the requests in flight, and clear up."""
        if self.process and not self.ended:
            end = time.monotonic() + seconds
            self.process.terminate()
            while not self.ended and time.monotonic() < end:
                await asyncio.sleep(POLL_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill tritonserver and its stubs at once, and clear up."""
        if self.process:
            with suppress(ProcessLookupError):  # the whole group, for a hanging stub stays alive
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
        if self.caretaker:
            self.caretaker.kill()
            self.caretaker.communicate()
            self.caretaker = None
        self._clear()

    def tail(self, lines: int = 8) -> str:
        """Return the last lines of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _clear(self) -> None:
        for file in self.memory.parent.glob(f"{self.memory.name}*"):
            file.unlink(missing_ok=True)


def _children(pid: int) -> list[int]:
    """Return the ids of child processes from the threads of `pid`: psutil scans the machine."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread may have ended since
            found += map(int, file.read_text().split())
    if not found:  # some kernels have no such file
        with suppress(psutil.Error):
            found = [child.pid for child in psutil.Process(pid).children()]
    return found


def is_stopped(process: psutil.Process) -> bool:
    """Return whether the process is stopped, as by SIGSTOP."""
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
