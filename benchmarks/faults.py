"""Mishandle a running server, and print what it makes of it as a table.

    python benchmarks/faults.py [--repository model_repository] [--model lenet_flowers]

A copy of the repository is served by `serve.py`, so nothing of yours is damaged. Requests are zeros
of the model's shapes, or a small picture. Takes some minutes; exit status 1 if a trial fails.
Limits of time are those of a quiet machine, stretched by how long the server took to start.
"""

import argparse
import multiprocessing
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import psutil
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.serving.load import INFER
from benchmarks.serving.trial import OPTIONS, Load, Trial
from nano_cv.data import images
from nano_cv.files import list_versions
from nano_cv.serving.triton import LOOPBACK
from nano_cv.serving.watched import question_for, request_of

Seen = tuple[str, bool]
TINY = images.encode_png(np.zeros((8, 8, 3), np.uint8))
GIGABYTE = 2**30
LIMITED = "limited"  # the model with a queue policy: 16 requests, each 50 ms
CLIENTS = 64
SILENT = 1100
STARTED = 5.0  # seconds until all is ready, in quiet
RESTARTED = 5.0  # seconds in which all must be well again, in quiet
COPIED = 10.0  # seconds in which a model is noticed, copied, checked and loaded, in quiet
CORRUPT, GOOD = "1000", "1001"  # versions dropped in, newer than any


def send_gigabyte(port: int, body: bytes) -> str:
    """The answer to a request that has more data than anyone wants."""
    request = service_pb2.ModelInferRequest.FromString(body)
    request.raw_input_contents[0] = bytes(GIGABYTE)
    with grpc.insecure_channel(f"{LOOPBACK}:{port}", OPTIONS) as channel:
        try:
            channel.unary_unary(INFER)(request.SerializeToString(), timeout=120)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "answered as if it were good"


class Faults:
    """The trials of one server; each method that is named in `ALL` is one."""

    def __init__(self, trial: Trial, models: Path, model: str, started: float) -> None:
        self.trial, self.models, self.model = trial, models, model
        self.slow = max(1.0, started / STARTED)  # how much slower this machine is now
        request = service_pb2.ModelConfigRequest(name=model)
        self.inputs = {}
        for tensor in question_for(model, trial.triton.ModelConfig(request).config).inputs:
            dtype = {"FP": "float", "UI": "uint", "IN": "int"}[tensor.datatype[:2]]
            bits = "".join(filter(str.isdecimal, tensor.datatype))
            self.inputs[tensor.name] = np.zeros(list(tensor.shape), dtype + bits)
        self.name, self.array = next(iter(self.inputs.items()))
        self.good = request_of(model, self.inputs)

    def refused(self, request: service_pb2.ModelInferRequest) -> Seen:
        """A bad request, and a good one after it."""
        try:
            self.trial.triton.ModelInfer(request, timeout=120)
            return "answered as if it were good", False
        except grpc.RpcError as error:
            self.trial.triton.ModelInfer(self.good, timeout=10)
            return f"{error.code().name}, next one answered", error.code() == REFUSED

    def wrong_shape(self) -> Seen:
        """Wrong shape."""
        return self.refused(request_of(self.model, {self.name: self.array[..., :-1]}))

    def wrong_dtype(self) -> Seen:
        """Wrong dtype."""
        other = np.float16 if self.array.dtype != np.float16 else np.uint8
        return self.refused(request_of(self.model, {self.name: self.array.astype(other)}))

    def wrong_name(self) -> Seen:
        """Wrong name."""
        return self.refused(request_of(self.model, {"WRONG": self.array}))

    def truncated(self) -> Seen:
        """Truncated body."""
        request = request_of(self.model, self.inputs)
        request.raw_input_contents[0] = request.raw_input_contents[0][:-100]
        return self.refused(request)

    def gigabyte_grpc(self) -> Seen:
        """1 GB body, gRPC."""
        start = time.monotonic()
        with (
            Load(self.trial.grpc_call(self.model, self.inputs), 1) as load,
            multiprocessing.get_context("spawn").Pool(1) as pool,  # it would hold up our clients
        ):
            body = self.good.SerializeToString()
            code = pool.apply(send_gigabyte, (self.trial.ports["grpc_port"], body))
        slowest = max(answer.answered - answer.sent for answer in load.answers)
        seen = (
            f"{code} after {time.monotonic() - start:.1f} s; meanwhile {len(load.good())} answers, "
        )
        seen += f"{len(load.errors())} failed, slowest {slowest * 1000:.0f} ms"
        return seen, code == REFUSED.name and not load.errors()

    def gigabyte_http(self) -> Seen:
        """1 GB body, HTTP."""
        status = self.raw_http(self.head(f"Content-Length: {GIGABYTE}"), [bytes(2**20)] * 1024)
        return f"{status}; {self.next_one()}", status == 413

    def endless_http(self) -> Seen:
        """1,500,000 chunks of a byte, HTTP (kills a bare Triton)."""
        pieces = [b"1\r\nx\r\n" * 10_000] * 150
        status = self.raw_http(self.head("Transfer-Encoding: chunked"), [*pieces, b"0\r\n\r\n"])
        return f"{status}; {self.next_one()}", status in (408, 422)

    def form_http(self) -> Seen:
        """A form of 5 MiB, HTTP (kills a bare Triton)."""
        kind = "Content-Type: application/x-www-form-urlencoded"
        head = self.head(f"Content-Length: {5 * 2**20}\r\n{kind}")
        status = self.raw_http(head, [bytes(2**20)] * 5)
        return f"{status}; {self.next_one()}", status == 422

    def nested_json(self) -> Seen:
        """200,000 nested arrays as JSON (kills a bare Triton)."""
        body = b"[" * 200_000
        head = self.head(f"Content-Length: {len(body)}\r\nContent-Type: application/json")
        status = self.raw_http(head, [body])
        return f"{status}; {self.next_one()}", status in (413, 415, 422)

    def head(self, headers: str) -> bytes:
        """Of a request to the model at the front door."""
        path = f"/models/{self.model}/predict"
        return f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n".encode()

    def next_one(self) -> str:
        """The answer to a good request, which must come."""
        self.trial.http_call(self.model, TINY)()()
        return "next one answered"

    def raw_http(self, head: bytes, pieces: list[bytes]) -> int:
        """The status of a request; 0 if the server hung up without one."""
        with socket.create_connection((LOOPBACK, self.trial.ports["port"]), 60) as link:
            try:
                link.sendall(head)
                for piece in pieces:
                    link.sendall(piece)
                answer = link.recv(12)
            except OSError:
                answer = b""
        return int((answer.split() or [b"", b"0"])[1])

    def silent(self) -> Seen:
        """1,100 connections that send half a request and no more."""
        links = []
        try:
            for _ in range(SILENT):
                links.append(socket.create_connection((LOOPBACK, self.trial.ports["port"]), 10))
                links[-1].sendall(b"GET /health HTTP/1.1\r\nHost: local")
            start = time.monotonic()
            seen = self.next_one()
            seconds = time.monotonic() - start
            status = self.trial.health()[0]
        finally:
            for link in links:
                link.close()
        return f"{seen} in {seconds:.1f} s, health {status}", status == 200

    def load_foreign(self) -> Seen:
        """Another user of this machine asks Triton to load a model."""
        asked = []
        for name, request in (
            ("RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name="foreign")),
            ("RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name=LIMITED)),
        ):
            try:
                getattr(self.trial.triton, name)(request, timeout=10)
                asked.append("done")
            except grpc.RpcError as error:
                asked.append(str(error.details()))
        (copy,) = self.trial.temporary.glob("nano_cv_serve_*")
        private = copy.stat().st_mode & 0o077 == 0
        seen = f"{asked[0]}; the served copy is {'private' if private else 'open to all'}"
        return seen, private and all("not allowed" in one for one in asked)

    def copy_gone(self) -> Seen:
        """The served copy is deleted under load."""

        def strike() -> None:
            before = self.trial.stubs(self.model)
            for path in self.trial.temporary.glob("*/live/*"):
                shutil.rmtree(path)
            # Triton loads the new copy, in another process; the next trial must not fall into that.
            self.trial.wait(lambda: not {*self.trial.stubs(self.model)} & {*before})
            self.trial.wait_ready()

        return self.killed(strike, COPIED)

    def junk(self) -> Seen:
        """10,000 junk requests among good ones."""
        chance, refused, answered = random.Random(0), 0, 0
        send = self.trial.channel.unary_unary(INFER)
        body = self.good.SerializeToString()
        with Load(self.trial.grpc_call(self.model, self.inputs), 2) as load:
            for number in range(10_000):
                if number % 10 == 0:
                    data = chance.randbytes(chance.randrange(1, 400))
                    answered += self.raw_http(data + b"\r\n\r\n", []) in (0, 400, 404, 405)
                    continue
                damaged = bytearray(body[: chance.randrange(len(body))] if number % 2 else body)
                for _ in range(min(3, len(damaged))):  # in the head: the rest is pixels
                    damaged[chance.randrange(min(60, len(damaged)))] = chance.randrange(256)
                try:
                    send(bytes(damaged), timeout=20)
                    answered += 1
                except grpc.RpcError:
                    refused += 1
        passed = not load.errors() and len(load.good()) > 0 and self.trial.server().is_running()
        seen = f"{refused + answered} answered or refused; "
        return f"{seen}{len(load.good())} good ones, {len(load.errors())} failed", passed

    def corrupt_version(self) -> Seen:
        """Corrupt newer version under load."""
        with Load(self.trial.grpc_call(self.model, self.inputs)) as load:
            self.drop_in(CORRUPT, b"\x08\x07junk")
            after = self.trial.wait(lambda: CORRUPT in self.trial.model(self.model)["refused"])
        reason = self.trial.model(self.model)["refused"][CORRUPT]
        shutil.rmtree(self.models / self.model / CORRUPT)
        seen = f"refused after {after:.1f} s: “{reason[:90]}”; "
        seen += f"the one before: {len(load.good())} answers, {len(load.errors())} failed"
        return seen, not load.errors()

    def good_version(self) -> Seen:
        """Good newer version under load."""
        with Load(self.trial.grpc_call(self.model, self.inputs)) as load:
            self.drop_in(GOOD, None)
            after = self.trial.wait(lambda: GOOD in self.trial.model(self.model)["versions"])
        slowest = max(answer.answered - answer.sent for answer in load.answers)
        seen = f"served after {after:.1f} s; {len(load.good())} answers, "
        seen += f"{len(load.errors())} failed, slowest {slowest * 1000:.0f} ms"
        return seen, not load.errors()

    def drop_in(self, version: str, content: bytes | None) -> None:
        """A copy of the newest version, whole at once, with another content if that is given."""
        hidden = self.models / self.model / f".{version}"
        newest = list_versions(self.models / self.model)[-1]
        shutil.copytree(self.models / self.model / str(newest), hidden)
        if content is not None:
            (hidden / "model.onnx").write_bytes(content)
        hidden.rename(hidden.with_name(version))

    def killed(self, strike: Callable[[], None], seconds: float = RESTARTED) -> Seen:
        """How long a model with four clients is away."""
        with Load(self.trial.grpc_call(self.model, self.inputs)) as load:
            self.trial.wait(lambda: len(load.good()) > 20)
            struck = time.monotonic()
            strike()
            self.trial.wait(
                lambda: sum(not one.error and one.sent > struck + 0.5 for one in load.answers) > 20
            )
        first = min(one.answered for one in load.good() if one.sent > struck + 0.5) - struck
        last = max((one.answered for one in load.answers if one.error), default=struck) - struck
        back = max(first, last)
        seen = f"all well again after {back:.1f} s; {load.errors().total()} errors until then"
        return seen, back < seconds * self.slow

    def kill_stub(self) -> Seen:
        """kill -9 of the model's process under load."""
        return self.killed(lambda: self.act_on_stub("kill"))

    def stop_stub(self) -> Seen:
        """SIGSTOP of the model's process under load."""
        return self.killed(lambda: self.act_on_stub("suspend"))

    def act_on_stub(self, action: str) -> None:
        """Call a method of the model's process, which a restart may be replacing just now."""
        for _ in range(50):
            with suppress(psutil.NoSuchProcess, IndexError):
                getattr(self.trial.stubs(self.model)[0], action)()
                return
            time.sleep(0.1)
        raise TimeoutError(f"{self.model}: no process for 5 s")

    def kill_server(self) -> Seen:
        """kill -9 of tritonserver under load."""
        return self.killed(self.trial.server().kill)

    def overload(self) -> Seen:
        """64 clients, queue of 16 and 50 ms."""
        self.trial.wait(lambda: self.trial.model(LIMITED)["state"] == "ready")
        with Load(self.trial.grpc_call(LIMITED, self.inputs), CLIENTS) as load:
            time.sleep(6)  # a measurement, not a wait
        times = [one.answered - one.sent for one in load.good()]
        p50, p99 = np.percentile(times, (50, 99)) * 1000
        reasons = {error.partition("] ")[2] or error for error in load.errors()}
        seen = f"{len(times)} answered, p50 {p50:.0f} ms, p99 {p99:.0f} ms; "
        seen += f"{load.errors().total()} refused: {'; '.join(sorted(reasons))}"
        ready = self.trial.model(LIMITED)["state"] == "ready"
        return seen, p99 < 1000 * self.slow and load.errors().total() > 0 and ready

    def sigterm(self) -> Seen:
        """SIGTERM under load, gRPC and the front door."""
        over_grpc = Load(self.trial.grpc_call(self.model, self.inputs), 4, until_error=True)
        over_http = Load(self.trial.http_call(self.model, TINY), 4, until_error=True)
        with over_grpc, over_http:
            self.trial.wait(lambda: len(over_grpc.good()) > 20 and len(over_http.good()) > 20)
            start = time.monotonic()
            self.trial.process.terminate()
            status = self.trial.process.wait(60)
            seconds = time.monotonic() - start
        errors = over_grpc.errors() + over_http.errors()
        polite = ["Server is stopping", "no available versions", "refused", "failed to connect"]
        polite += ["Broken pipe", "reset by peer", "closed connection"]  # of one that was idle
        lost = [error for error in errors if not any(text in error for text in polite)]
        seen = f"ended with {status} after {seconds:.1f} s; {len(lost)} lost: {lost or 'none'}; "
        return f"{seen}{errors.total()} refused as they came later", not lost and status == 0


REFUSED = grpc.StatusCode.INVALID_ARGUMENT
ALL = (
    *(Faults.wrong_shape, Faults.wrong_dtype, Faults.wrong_name, Faults.truncated),
    *(Faults.gigabyte_grpc, Faults.gigabyte_http, Faults.endless_http, Faults.form_http),
    *(Faults.nested_json, Faults.silent, Faults.load_foreign),
    *(Faults.junk, Faults.corrupt_version, Faults.good_version, Faults.copy_gone),
    *(Faults.kill_stub, Faults.stop_stub, Faults.kill_server, Faults.overload, Faults.sigterm),
)


def write_limited(models: Path, model: str) -> None:
    """The same model with a queue that is short and impatient."""
    shutil.copytree(models / model, models / LIMITED)
    file = models / LIMITED / "config.pbtxt"
    config = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
    policy = config.dynamic_batching.default_queue_policy
    policy.max_queue_size, policy.default_timeout_microseconds = 16, 50_000
    config.name = LIMITED
    file.write_text(text_format.MessageToString(config))


def main() -> None:
    """Serve a copy, try everything, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--model", default="lenet_flowers")
    given = parser.parse_args()
    if not (given.repository / given.model).is_dir():
        sys.exit(f"error: {given.repository} has no {given.model}")
    bad = False
    with tempfile.TemporaryDirectory() as name:
        folder, models = Path(name), Path(name, "models")
        models.mkdir()
        shutil.copytree(given.repository / given.model, models / given.model)
        write_limited(models, given.model)
        with Trial(models, folder) as trial:
            started = trial.wait_ready()
            print(f"Ready in {started:.1f} s.\n")
            print("| fault | what was seen | |\n|---|---|---|")
            faults = Faults(trial, models, given.model, started)
            for fault in ALL:
                try:
                    seen, passed = fault(faults)
                    if trial.process.poll() is None:
                        trial.wait_ready()
                except Exception as error:  # of one trial; the others are still worth seeing
                    seen, passed = f"{type(error).__name__}: {error}"[-600:], False
                what = str(fault.__doc__).rstrip(".")
                print(f"| {what} | {seen} | {'pass' if passed else '**fail**'} |", flush=True)
                bad |= not passed
    sys.exit(int(bad))


if __name__ == "__main__":
    main()
