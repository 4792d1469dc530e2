"""Process of tritonserver, which ends whenever this process does, even if this one is killed."""

import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import psutil
from tritonclient.grpc import service_pb2, service_pb2_grpc

from nano_cv.errors import UserError
from nano_cv.serving import triton

logger = logging.getLogger(__name__)
# Program that ends the server and clears up after us, even if we are killed. It reads the number of
# the server's process, which changes with each start, and 0 after its end.
CARETAKER = """
import contextlib, glob, os, shutil, signal, sys
pid = 0
for line in sys.stdin:  # ends when the process that started us does, however it ends
    pid = int(line)
with contextlib.suppress(ProcessLookupError):
    if pid:
        os.killpg(pid, signal.SIGKILL)
for file in glob.glob(sys.argv[1] + "*"):
    with contextlib.suppress(OSError):
        os.unlink(file)
shutil.rmtree(sys.argv[2], ignore_errors=True)
"""


def make_area() -> Path:
    """Make a private folder for a server, whose path has no blanks, signs or foreign letters.

    Triton hands paths to its models' processes through a shell, and these read them as ASCII.
    """
    usual = tempfile.gettempdir()
    root = usual if re.fullmatch(r"[\w/.-]+", usual, re.ASCII) else "/tmp"
    return Path(tempfile.mkdtemp(prefix="nano_cv_serve_", dir=root))  # only its owner can enter


class Server:
    """Process of tritonserver and the stub processes that run its models.

    `area` is a private folder, which is removed in the end. `stop` gives requests in flight
    `seconds`. With `poll`, Triton looks for changes in the repository.
    """

    def __init__(
        self, area: Path, repository: Path, log: Path, port: int, seconds: float, poll: bool
    ) -> None:
        self.repository, self.log = repository, log
        prefix = f"nano_cv_{secrets.token_hex(8)}_"  # nobody else can have made such files before
        self.memory = Path("/dev/shm", prefix)
        wheel, self.seconds = triton.find_wheel(), seconds
        backends = triton.make_backends(wheel, area / "backends")
        line = triton.command(wheel, backends, repository, port, round(seconds), poll)
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

    def describe_end(self) -> str:
        """Say how a start of tritonserver has failed, with the last lines of its log."""
        how = self.ended or f"not ready after {triton.START_SECONDS} s"
        last = self.log.read_text(errors="replace").splitlines()[-8:]
        return "\n".join([f"Triton {how}", *last])

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

    def stop(self) -> None:
        """Stop tritonserver once the requests in flight are answered, and clear up."""
        if self.process:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(self.seconds)
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


@contextmanager
def running(repository: Path, models: Iterable[str], log: Path | None = None) -> Iterator[int]:
    """Run a server without supervision; yields its gRPC port once all models are ready.

    For benchmarks and for `prove`. Without a `log`, Triton's log is removed in the end.

    Raises:
        UserError: Triton refuses a model, ends, or is not ready in `triton.START_SECONDS`.
    """
    models, (port,), area = list(models), triton.free_ports(1), make_area()
    (area / "models").symlink_to(repository.absolute())  # whose path may have any letters
    log = log or area / "triton.log"
    with grpc.insecure_channel(f"{triton.LOOPBACK}:{port}") as channel:
        server = Server(area, area / "models", log, port, seconds=5, poll=False)
        try:
            server.start()
            end = time.monotonic() + triton.START_SECONDS
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while True:
                with suppress(grpc.RpcError):  # it answers once every model is loaded or refused
                    request = service_pb2.RepositoryIndexRequest()
                    index = stub.RepositoryIndex(request, timeout=10).models
                    break
                if server.ended or time.monotonic() > end:
                    raise UserError(server.describe_end())
                time.sleep(0.1)
            why = {entry.name: entry.reason.partition("\n")[0] for entry in index}
            refused = sorted({*models} - {item.name for item in index if item.state == "READY"})
            if refused:
                texts = (f"{name}: {why.get(name) or 'refused'}" for name in refused)
                raise UserError("; ".join(texts))
            yield port
        finally:
            server.stop()


def prove(repository: Path, models: Sequence[str]) -> None:
    """Prove that Triton can serve the models of a repository by loading them into a new server.

    Where Triton is not installed, a log line says that only the offline check was made.

    Raises:
        UserError: Triton refuses a model; the message says why.
    """
    try:
        triton.find_wheel()
    except UserError as error:
        logger.info("Only checked, not loaded into a Triton: %s", error)
        return
    try:
        with running(repository, models):
            logger.info("Triton has loaded %s", ", ".join(models))
    except UserError as error:
        raise UserError(f"Triton refuses this, so nothing was published: {error}") from error
