"""Process of tritonserver, started so that it ends whenever this process does, even if killed."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from omegaconf import DictConfig

from nano_cv.serving import triton

# Program that ends the server and clears up after us, even if we are killed. It reads the number of
# the server's process, which changes with each start, and 0 after its end.
CARETAKER = """
import contextlib, glob, os, shutil, signal, sys
pid = 0
for line in sys.stdin:  # ends when the supervisor does, however it ends
    pid = int(line)
with contextlib.suppress(ProcessLookupError):
    if pid:
        os.killpg(pid, signal.SIGKILL)
for file in glob.glob(sys.argv[1] + "*"):
    with contextlib.suppress(OSError):
        os.unlink(file)
shutil.rmtree(sys.argv[2], ignore_errors=True)
"""


class Server:
    """Process of tritonserver and the stub processes that run its models.

    `area` is a private folder, which is removed if this process is killed.
    """

    def __init__(
        self, wheel: triton.Wheel, area: Path, repository: Path, config: DictConfig, log: Path
    ) -> None:
        self.repository, self.log = repository, log
        prefix = f"nano_cv_{secrets.token_hex(8)}_"  # nobody else can have made such files before
        self.memory = Path("/dev/shm", prefix)
        backends = triton.make_backends(wheel, area / "backends")
        seconds = round(config.exit_timeout_seconds)
        line = triton.command(wheel, backends, repository, config.grpc_port, seconds, poll=True)
        self.line = [*line, f"--backend-config=python,shm-region-prefix-name={prefix}"]
        self.environment = triton.environment(wheel)
        self.process: subprocess.Popen[bytes] | None = None
        self.caretaker = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", CARETAKER, str(self.memory), str(area)],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self) -> None:
        """Start tritonserver; call `stop` or `kill` first if it was started before."""
        self._clear()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.line,
                env=self.environment,
                cwd=triton.PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C does not end the requests in flight
            )
        self.pid = self.process.pid
        self._tell(self.pid)

    @property
    def ended(self) -> str:
        """How tritonserver ended, such as `ended by SIGKILL`; empty while it runs."""
        assert self.process is not None
        status = self.process.poll()
        if status is None:
            return ""
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"

    def stubs(self) -> dict[str, set[psutil.Process]]:
        """Return each model's stub processes, whose first argument is the model's file."""
        stubs: dict[str, set[psutil.Process]] = {}
        for child in psutil.Process(self.pid).children():
            try:
                file = Path(child.cmdline()[1])
                stubs.setdefault(file.relative_to(self.repository).parts[0], set()).add(child)
            except (psutil.Error, IndexError, ValueError):
                continue  # the child has ended, or has only just been forked from the server
        return stubs

    def close_memory(self) -> None:
        """Close the shared memory, which holds what clients send, to other users.

        Triton makes it readable to all, whatever the umask, when it loads a model.
        """
        for file in self._memory_files():
            with suppress(OSError):  # gone, or another user's; a link of theirs is not followed
                opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                os.fchmod(opened, 0o600)
                os.close(opened)

    async def stop(self, seconds: float) -> None:
        """Stop tritonserver, with at most `seconds` for the requests in flight, and clear up."""
        if self.process:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self.process.wait, seconds)
        self.kill()
        self.caretaker.communicate()  # it removes the area, and ends

    def kill(self) -> None:
        """Kill tritonserver and its stubs at once, and clear up."""
        if self.process:
            with suppress(ProcessLookupError):  # the whole group, for a hanging stub stays alive
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            self._tell(0)
        self._clear()

    def _tell(self, pid: int) -> None:
        """Tell the caretaker which process to end."""
        assert self.caretaker.stdin is not None
        with suppress(BrokenPipeError):  # somebody has ended it
            print(pid, file=self.caretaker.stdin, flush=True)

    def _clear(self) -> None:
        for file in self._memory_files():
            with suppress(OSError):  # gone, or another user's
                file.unlink()

    def _memory_files(self) -> Iterator[Path]:
        return self.memory.parent.glob(f"{self.memory.name}*")
