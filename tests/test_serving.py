"""Against the real Triton, supervised: one server for the module, models of a few bytes."""

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from subprocess import PIPE, Popen

import grpc
import numpy as np
import onnx
import psutil
import pytest
from conftest import python, skip_without_triton
from tiny_models import model_of
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.serving.trial import Load, Trial
from nano_cv.errors import UserError
from nano_cv.evaluation.client import Client
from nano_cv.serving import process, triton
from nano_cv.serving.service import _check_port
from nano_cv.serving.supervisor import _lock_port
from nano_cv.serving.watched import request_of

skip_without_triton(allow_module_level=True)

SLOW = """
import time
import triton_python_backend_utils as utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = utils.get_input_tensor_by_name(request, "X").as_numpy()
            while x.flat[0] == 13:  # hangs, as a deadlock would
                time.sleep(1)
            time.sleep(0.1)
            answers.append(utils.InferenceResponse([utils.Tensor("Y", x)]))
        return answers
"""
X = {"X": np.array([[1, 2, 3, 4]], np.float32)}
BATCHED = "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 100000 }\n"
FAST = ("probe_seconds=0.5", "probe_deadline_seconds=1.5", "poll_seconds=0.2")


def tensors(kind: str, names: str, dims: int | str) -> str:
    """Inputs or outputs in a config."""
    each = (f'{kind} {{ name: "{name}" data_type: TYPE_FP32 dims: [{dims}] }}\n' for name in names)
    return "".join(each)


def write_config(folder: Path, *lines: str) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text("\n".join([f'name: "{folder.name}"', *lines]))


def write_model(folder: Path, config: str, graph: str) -> None:
    """A model of the `onnxruntime` backend."""
    write_config(
        *(folder, 'backend: "onnxruntime"', config),
        "instance_group { count: 1 kind: KIND_CPU }",
        'parameters { key: "intra_op_thread_count" value { string_value: "1" } }',
    )
    onnx.save(model_of(f"graph {graph}"), folder / "1" / "model.onnx")


def write_scale(folder: Path, dims: str = "4", factor: float = 2) -> None:
    """Y = factor X and Z = X + X, in batches of up to 8 that are waited for."""
    write_model(
        *(folder, BATCHED + tensors("input", "X", dims) + tensors("output", "YZ", dims)),
        f"(float[N,4] X) => (float[N,4] Y, float[N,4] Z) <float factor = {{{float(factor)}}}> "
        "{ Y = Mul (X, factor) Z = Add (X, X) }",
    )


def write_repository(root: Path) -> Path:
    """Every kind of model that the tests ask."""
    write_scale(root / "scale")
    write_scale(root / "wrong", dims="5")
    write_model(  # the rows of A that are not below B: for some requests too few
        *(root / "keep", BATCHED + tensors("input", "AB", 1) + tensors("output", "K", 1)),
        "(float[N,1] A, float[N,1] B) => (float[M,1] K) <int64[1] flat = {-1}> "
        "{ column = GreaterOrEqual (A, B) kept = Reshape (column, flat) "
        "K = Compress <axis = 0> (A, kept) }",
    )
    huge = tensors("input", "X", "1000000, 1000000") + tensors("output", "Y", "-1, -1")
    write_model(
        *(root / "huge", "max_batch_size: 8\n" + huge),
        "(float[N,A,B] X) => (float[N,A,B] Y) { Y = Identity (X) }",
    )
    x_to_y = tensors("input", "X", 4) + tensors("output", "Y", 4)
    processes = "instance_group { count: 2 kind: KIND_CPU }"
    write_config(root / "slow", 'backend: "python"\nmax_batch_size: 1', x_to_y, processes)
    (root / "slow" / "1" / "model.py").write_text(SLOW)
    steps = "".join(
        f'step {{ model_name: "scale" model_version: -1 input_map {{ key: "X" value: "{before}" }} '
        f'output_map {{ key: "Y" value: "{after}" }} }}\n'
        for before, after in (("X", "HALF"), ("HALF", "Y"))
    )
    ensemble = f"ensemble_scheduling {{ {steps} }}"
    write_config(root / "twice", 'platform: "ensemble"\nmax_batch_size: 8', x_to_y, ensemble)
    return root


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with Trial(write_repository(folder / "models"), folder, *FAST) as trial:
        trial.wait(lambda: trial.health()[1].get("status") == "degraded", 60)  # `wrong` is refused
        in_the_way = memory_of(trial).with_name(f"{memory_of(trial).name}x")
        in_the_way.mkdir()  # by another user: then starting again must still work
        yield trial
    in_the_way.rmdir()


def memory_of(trial) -> Path:
    """Where the shared memory of a server lies: the beginning of the names of its files."""
    (line,) = (word for word in trial.server().cmdline() if "shm-region-prefix-name" in word)
    return Path("/dev/shm", line.rpartition("=")[2])


@pytest.fixture(autouse=True)
def all_well(request):
    """Each test leaves the server as it found it."""
    yield
    if "served" in request.fixturenames:
        trial = request.getfixturevalue("served")
        trial.wait(lambda: others_ready(trial))


def others_ready(trial) -> bool:
    models = trial.health()[1]["models"]
    return all(
        model["state"] == "ready" for name, model in models.items() if name not in ("wrong", "huge")
    )


def drop_in(models: Path, version: str, factor: float = 2, content: bytes = b"") -> None:
    """A new version of `scale`, whole at once; with another content it is no model."""
    write_scale(models / ".new" / "scale", factor=factor)
    if content:
        (models / ".new/scale/1/model.onnx").write_bytes(content)
    (models / ".new/scale/1").rename(models / "scale" / version)
    shutil.rmtree(models / ".new")


def test_requests_run_as_one_batch(served):
    before = served.figures("scale")
    rows = [np.full((1, 4), number, np.float32) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda row: served.infer("scale", {"X": row}), rows))
    for row, answer in zip(rows, answers, strict=True):
        assert np.array_equal(answer["Y"], row * 2) and np.array_equal(answer["Z"], row + row)
    after = served.figures("scale")
    assert after.inference_count - before.inference_count >= 8
    assert after.execution_count - before.execution_count <= 5  # a probe may come in between


def test_a_bad_request_does_not_fail_its_neighbours(served):
    """The bad one: the model's answer has fewer rows than the request."""

    def ask(number):
        inputs = {"A": np.array([[number]], np.float32), "B": np.zeros((1, 1), np.float32)}
        try:
            return served.infer("keep", inputs)["K"].item()
        except grpc.RpcError as error:
            return error.details()

    with ThreadPoolExecutor(4) as pool:
        first, second, bad, third = pool.map(ask, [1, 2, -1, 3])
    assert (first, second, third) == (1, 2, 3)
    assert "shape (0, 1) for a batch of 1" in bad


def test_a_config_that_does_not_fit_is_refused_and_the_others_serve(served):
    status, health = served.health()
    assert status == 503 and health["models"]["wrong"]["state"] == "refused"
    assert "dims" in health["models"]["wrong"]["reason"]
    assert "too large for a request" in health["models"]["huge"]["reason"]
    assert np.array_equal(served.infer("twice", X)["Y"], X["X"] * 4)
    with served.page("/metrics") as page:
        assert 'nano_cv_model_up{model="wrong"} 0' in page.read().decode()


def test_bad_requests_are_refused_and_the_next_is_served(served):
    truncated = request_of("scale", X)
    truncated.raw_input_contents[0] = truncated.raw_input_contents[0][:-1]
    for bad in (
        request_of("scale", {"X": np.zeros((1, 3), np.float32)}),
        request_of("scale", {"X": np.zeros((1, 4), np.int64)}),
        request_of("scale", {"WRONG": np.zeros((1, 4), np.float32)}),
        truncated,
    ):
        with pytest.raises(grpc.RpcError) as refused:
            served.triton.ModelInfer(bad)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert np.array_equal(served.infer("scale", X)["Y"], X["X"] * 2)


def test_nobody_may_have_a_model_loaded(served):
    """Neither one of ours nor one whose code comes along: that would run in our name."""
    ask = service_pb2.ModelRepositoryParameter
    foreign = {
        "config": ask(string_param='{"backend": "python"}'),
        "file:1/model.py": ask(bytes_param=b"import os"),
    }
    for call, request in (
        (served.triton.RepositoryModelUnload, {"model_name": "scale"}),
        (served.triton.RepositoryModelLoad, {"model_name": "scale"}),
        (served.triton.RepositoryModelLoad, {"model_name": "foreign", "parameters": foreign}),
    ):
        kind = f"{call._method.decode().rpartition('/')[2]}Request"
        with pytest.raises(grpc.RpcError, match="not allowed if polling is enabled"):
            call(getattr(service_pb2, kind)(**request))
    assert np.array_equal(served.infer("scale", X)["Y"], X["X"] * 2)


def test_a_model_without_metadata_and_a_server_for_benchmarks(served, tmp_path, monkeypatch):
    """The second loads nothing for others either."""
    with (
        closing(Client(f"127.0.0.1:{served.ports['grpc_port']}")) as client,
        pytest.raises(UserError, match="'scale' holds no metadata"),
    ):
        client.metadata("scale")
    folder = tmp_path / "Ü's models"  # a name that neither a shell nor Triton can take
    write_scale(folder / "scale")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with process.running(folder, ["scale"], tmp_path / "log") as port:
        request = service_pb2.RepositoryModelUnloadRequest(model_name="scale")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError, match="unload is not allowed"):
                stub.RepositoryModelUnload(request)


RUNNING = """
import sys
import tempfile
from pathlib import Path
from nano_cv.serving.process import running

with running(Path("models"), ["scale"], Path("log")):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_killed_export_leaves_no_server(tmp_path):
    write_scale(tmp_path / "models" / "scale")
    variables = os.environ | {"PYTHONPATH": str(triton.PROJECT), "TMPDIR": str(tmp_path)}
    options = {"cwd": tmp_path, "env": variables, "stdin": PIPE, "stdout": PIPE}
    with Popen([sys.executable, "-c", RUNNING], **options) as export:
        assert export.stdout.readline() == b"ready\n"
        children = psutil.Process(export.pid).children(recursive=True)
        assert "tritonserver" in {child.name() for child in children}
        assert list(tmp_path.glob("nano_cv_serve_*"))
        export.kill()
        assert psutil.wait_procs(children, timeout=20)[1] == []
    assert not list(tmp_path.glob("nano_cv_serve_*"))


def test_the_served_copy_is_private(served):
    (area,) = served.temporary.glob("nano_cv_serve_*")
    assert area.stat().st_mode & 0o777 == 0o700
    assert (area / "live" / "scale").is_dir()
    memory = memory_of(served)  # what clients have sent may lie in it
    files = [file for file in memory.parent.glob(f"{memory.name}*") if file.is_file()]
    assert files
    served.wait(lambda: not any(file.stat().st_mode & 0o077 for file in files if file.exists()))
    port = served.ports["grpc_port"]
    with pytest.raises(UserError, match=f"grpc_port={port}: another serve.py has it"):
        _lock_port(port)  # two Tritons could share it


ANOTHER_USER = """
import os, sys
import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

address, pid, area = sys.argv[1:]
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    print(os.listdir(area))
except PermissionError:
    print("the served copy is closed")
with open(f"/proc/{pid}/cmdline") as file:
    print("a key" if "restricted" in file.read() else "no key")
ask = service_pb2.ModelRepositoryParameter
code = {
    "config": ask(string_param='{"backend": "python"}'),
    "file:1/model.py": ask(bytes_param=b"import os"),
}
triton = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(address))
try:
    request = service_pb2.RepositoryModelLoadRequest(model_name="foreign", parameters=code)
    print(triton.RepositoryModelLoad(request))
except grpc.RpcError as error:
    print(error.details())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can play another user")
def test_another_user_of_this_machine_runs_no_code(served):
    (area,) = served.temporary.glob("nano_cv_serve_*")
    address = f"127.0.0.1:{served.ports['grpc_port']}"
    told = python("-c", ANOTHER_USER, address, str(served.server().pid), str(area), cwd=Path("/"))
    assert told.stdout.splitlines() == [
        *("the served copy is closed", "no key"),
        "explicit model load / unload is not allowed if polling is enabled",
    ], told.stderr


def test_only_the_front_door_and_grpc_listen(served):
    """Triton's own HTTP would be another way in, which some requests crash."""
    processes = [psutil.Process(served.process.pid), *served.children()]
    listening = {
        (process.name(), one.laddr.port)
        for process in processes
        for one in process.net_connections()
        if one.status == psutil.CONN_LISTEN
    }
    assert {port for _, port in listening} == set(served.ports.values())
    assert ("tritonserver", served.ports["grpc_port"]) in listening


@pytest.mark.parametrize(  # one of two processes, the only one, and the server itself
    ("victim", "number"),
    [("slow", signal.SIGKILL), ("scale", signal.SIGSTOP), ("server", signal.SIGKILL)],
)
def test_what_is_killed_or_stopped_comes_back(served, victim, number):
    restarts = served.health()[1]["server_restarts"]
    with Load(served.grpc_call("scale", X)) as load:
        served.wait(lambda: len(load.good()) >= 4)
        process = served.server() if victim == "server" else served.stubs(victim)[0]
        process.send_signal(number)
        served.wait(lambda: served.health()[1]["server_restarts"] > restarts)
        served.wait(lambda: others_ready(served))
        back = time.monotonic()
        count = len(load.good())
        served.wait(lambda: len(load.good()) >= count + 12)
    late = [answer.error for answer in load.answers if answer.sent > back + 1 and answer.error]
    assert not late
    assert served.health()[1]["server_restarts"] == restarts + 1
    assert served.model("wrong")["state"] == "refused"
    assert np.array_equal(served.infer("twice", X)["Y"], X["X"] * 4)


def test_a_model_that_hangs_is_started_again(served):
    restarts = served.health()[1]["server_restarts"]
    stuck = [served.triton.ModelInfer.future(request_of("slow", {"X": X["X"] * 13}))
             for _ in range(2)]  # fmt: skip
    served.wait(lambda: served.health()[1]["server_restarts"] > restarts)
    served.wait(lambda: others_ready(served))
    assert np.array_equal(served.infer("slow", X)["Y"], X["X"])
    assert all(future.exception(timeout=10) for future in stuck)


def test_a_copy_that_was_deleted_comes_back(served):
    (copy,) = served.temporary.glob("*/live/scale")
    shutil.rmtree(copy)
    served.wait(lambda: served.model("scale")["state"] != "ready")
    served.wait(lambda: others_ready(served))
    assert np.array_equal(served.infer("scale", X)["Y"], X["X"] * 2)


def test_versions_under_load(served):
    """Corrupt: refused, with the reason. Good: served. Gone: the one before. No failed request."""
    models = served.output.parent / "models"
    with Load(served.grpc_call("scale", X)) as load:
        drop_in(models, "2", content=b"\x08\x07junk")
        served.wait(lambda: "2" in served.model("scale")["refused"])
        assert "model.onnx" in served.model("scale")["refused"]["2"]
        assert served.model("scale")["versions"] == ["1"]
        assert served.infer("scale", X)["Y"][0, 0] == 2
        drop_in(models, "3", factor=3)
        served.wait(lambda: served.infer("scale", X)["Y"][0, 0] == 3)
        shutil.rmtree(models / "scale" / "2")
        shutil.rmtree(models / "scale" / "3")
        served.wait(lambda: served.infer("scale", X)["Y"][0, 0] == 2)
        served.wait(lambda: served.model("scale")["refused"] == {})
    assert load.good() and not load.errors()


def test_models_come_and_go(served):
    models = served.output.parent / "models"
    write_scale(models / ".hidden" / "guest")
    (models / ".hidden" / "guest").rename(models / "guest")
    (models / ".hidden").rmdir()
    served.wait(lambda: served.model("guest").get("state") == "ready")
    assert served.infer("guest", X)["Y"][0, 0] == 2
    (models / "guest" / "1" / "model.onnx").write_bytes(b"junk")  # in place, while it serves
    served.wait(lambda: served.model("guest")["refused"])
    assert served.infer("guest", X)["Y"][0, 0] == 2
    shutil.rmtree(models / "guest")
    served.wait(lambda: served.model("guest") == {})

    def refused():  # Triton ends what is in flight before it forgets a model
        try:
            served.infer("guest", X)
        except grpc.RpcError as error:
            return error.code().name in ("NOT_FOUND", "UNAVAILABLE")

    served.wait(refused)


def test_links_devices_and_odd_names_in_the_repository(served):
    """They could lead to any file, or never end; the others serve on, and health says why."""
    models = served.output.parent / "models"
    os.mkdir(os.fsencode(models) + b"/odd\xff")
    for name, make in (("pipe", os.mkfifo), ("link", lambda file: file.symlink_to("/dev/zero"))):
        write_scale(models / ".hidden" / name)
        (models / ".hidden" / name / "1" / "model.onnx").unlink()
        make(models / ".hidden" / name / "1" / "model.onnx")
        (models / ".hidden" / name).rename(models / name)
        served.wait(lambda name=name: "a link or a device" in served.model(name).get("reason", ""))
        shutil.rmtree(models / name)
        served.wait(lambda name=name: served.model(name) == {})
    write_scale(models / ".hidden" / "deep")
    (models / ".hidden/deep/1" / Path(*"a" * 25)).mkdir(parents=True)
    os.symlink("/dev/zero", os.fsencode(models) + b"/.hidden/deep/odd\xff")
    (models / ".hidden" / "deep").rename(models / "deep")
    served.wait(lambda: "cannot be copied: deep/" in served.model("deep").get("reason", ""))
    (models / "deep").rename(models / ".deep")
    served.wait(lambda: served.model("deep") == {})
    shutil.rmtree(models / ".deep")
    assert served.health()[1]["models"]["scale"]["state"] == "ready"
    os.rmdir(os.fsencode(models) + b"/odd\xff")
    (models / ".hidden").rmdir()


def test_a_model_that_stops_the_server_each_time_is_set_aside(tmp_path):
    """The others serve, mended files are taken over, and SIGTERM loses nothing that was taken."""
    write_repository(tmp_path / "all")
    for name in ("scale", "slow"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "all" / name).rename(tmp_path / "models" / name)
    code = tmp_path / "models/slow/1/model.py"
    code.write_text(SLOW.replace("== 13", "!= 13"))  # hangs at each question
    with Trial(tmp_path / "models", tmp_path, *FAST) as trial:
        trial.wait(lambda: "set aside" in trial.model("slow").get("reason", ""), 60)
        trial.wait(lambda: trial.model("scale")["state"] == "ready", 60)
        assert np.array_equal(trial.infer("scale", X)["Y"], X["X"] * 2)
        assert trial.health()[0] == 503
        code.write_text(SLOW)
        trial.wait_ready()

        load = Load(trial.grpc_call("slow", X), 6, until_error=True)
        children, memory = trial.children(), memory_of(trial)
        with load:
            trial.wait(lambda: len(load.good()) > 12)
            trial.process.terminate()
            assert trial.process.wait(20) == 0
    allowed = (  # each gets an answer, or a refusal in words
        *("Server is stopping", "no available versions"),  # Triton takes no more
        "failed to connect",  # and has gone
    )
    refusals = load.errors()
    assert all(any(text in refusal for text in allowed) for refusal in refusals), refusals
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert not list(trial.temporary.glob("nano_cv_serve_*"))
    assert not list(memory.parent.glob(f"{memory.name}*"))


def test_no_model_at_all_is_not_healthy(tmp_path):
    """And nothing runs on when the supervisor is killed."""
    write_scale(tmp_path / "models" / "scale")
    with Trial(tmp_path / "models", tmp_path, *FAST) as trial:
        trial.wait_ready()
        shutil.rmtree(tmp_path / "models" / "scale")
        trial.wait_ready(503)
        assert trial.health()[1] == {"status": "degraded", "server_restarts": 0, "models": {}}
        write_scale(tmp_path / "models" / "scale")
        trial.wait_ready()
        children = trial.children()
        assert trial.stubs("scale")
        trial.process.kill()
        assert psutil.wait_procs(children, timeout=10)[1] == []
    assert not list(trial.temporary.glob("nano_cv_serve_*"))


def test_what_cannot_be_served(fails, tmp_path):
    port, grpc_port = triton.free_ports(2)
    free = (f"port={port}", f"grpc_port={grpc_port}")
    assert "type: python export_model.py" in fails("serve", *free)
    write_scale(tmp_path / "model_repository" / "scale")
    assert "did you mean 'scale'?" in fails("serve", "models=[scael]", *free)
    _check_port("port", 0, "::1")  # another kind of address
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for key in ("port", "grpc_port"):
            assert f"{key}={port}: Address already in use" in fails("serve", f"{key}={port}")
