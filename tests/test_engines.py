"""One model, three engines, the same answers; two of them and the client without torch."""

import csv
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import onnx
import pytest
import torch
from conftest import CONTRACT, ROOT, TINY, make_flowers, python
from omegaconf import OmegaConf
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_recall

from nano_cv import building
from nano_cv.config.checks import CONFIGS
from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError
from nano_cv.evaluation import evaluate, reports
from nano_cv.evaluation.client import Client, ServerError
from nano_cv.evaluation.engines import Torch
from nano_cv.evaluation.exported import Onnx
from nano_cv.evaluation.opening import make_engine
from nano_cv.export import graph
from nano_cv.export.repository import DECODER
from nano_cv.metadata import Metadata
from nano_cv.serving import triton
from nano_cv.tasks import weights

NAME = CONTRACT.name
FOR_INFER = [option for option in TINY if not option.startswith("model.")]
QUOTED = CONTRACT.to_json().replace('"', '\\"')
MODEL = f"""
backend: "onnxruntime"
max_batch_size: 4
input {{ name: "IMAGES" data_type: TYPE_UINT8 dims: [3, 32, 32] }}
output {{ name: "CLASS_PROBS" data_type: TYPE_FP32 dims: [3] }}
instance_group {{ count: 1 kind: KIND_CPU }}
dynamic_batching {{ max_queue_delay_microseconds: 500 }}
parameters {{ key: "contract" value {{ string_value: "{QUOTED}" }} }}
"""
FROM_JPEG = f"""
backend: "python"
max_batch_size: 4
input {{ name: "ENCODED" data_type: TYPE_STRING dims: [1] }}
output {{ name: "CLASS_PROBS" data_type: TYPE_FP32 dims: [3] }}
instance_group {{ count: 1 kind: KIND_CPU }}
parameters {{ key: "max_picture_bytes" value {{ string_value: "100000" }} }}
parameters {{ key: "max_picture_pixels" value {{ string_value: "1000000" }} }}
parameters {{ key: "image_size" value {{ string_value: "[32, 32]" }} }}
parameters {{ key: "fit" value {{ string_value: "stretch" }} }}
parameters {{ key: "contract" value {{ string_value: "{QUOTED}" }} }}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny data set, weights of a random network, and its ONNX file."""
    folder = tmp_path_factory.mktemp("home")
    make_flowers(folder / "data/flowers")
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("train", TINY)
    torch.manual_seed(3)
    task = building.make_task(config, CONTRACT)
    with torch.no_grad():
        task.network.classifier.weight *= 40  # random networks are sure of nothing
    weights.save(task, folder / f"weights/{NAME}.safetensors")
    version = folder / f"model_repository/{NAME}/10"
    for name in ("2", "10", "new"):  # 10 is newer than 2, and no version is called new
        version.with_name(name).mkdir(parents=True)
        version.with_name(name).joinpath("model.onnx").touch()
    graph.export(task, version / "model.onnx")
    model = onnx.load(version / "model.onnx")
    onnx.helper.set_model_props(model, {"contract": CONTRACT.to_json(), "precision": "float32"})
    onnx.save(model, version / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def server(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Triton with the model, and with its twin that takes pictures."""
    if sys.platform != "linux":
        pytest.skip("Triton's wheel is for Linux")
    pytest.importorskip("pytriton", reason="Triton's wheel is not installed")
    folder = tmp_path_factory.mktemp("served")
    for name, config in {
        NAME: MODEL,
        f"{NAME}_from_jpeg": FROM_JPEG,
        "bare": MODEL.rpartition("parameters")[0],
    }.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(f'name: "{name}"\n{config}')
    exported = home / f"model_repository/{NAME}/10/model.onnx"
    models = [NAME, f"{NAME}_from_jpeg", "bare"]
    for name in models:
        (folder / name / "1/model.onnx").write_bytes(exported.read_bytes())
    shutil.copy(DECODER, folder / f"{NAME}_from_jpeg/1")
    with triton.running(folder, models, folder.with_suffix(".log")) as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def kept() -> dict[tuple[str, ...], Any]:
    return {}


@pytest.fixture
def infer(run, home, kept, monkeypatch):
    """Runs infer.py at home, once for all with the same arguments: output, table, folder."""
    monkeypatch.chdir(home)

    def call(*arguments: str):
        if arguments not in kept:
            done = run("infer", *FOR_INFER, *TINY[:2], *arguments)
            assert done.status == 0, done.err
            folder = max(
                (home / f"runs/infer/{NAME}").iterdir(), key=lambda run: run.stat().st_mtime
            )
            with (folder / "predictions.csv").open() as file:
                kept[arguments] = done.out, list(csv.DictReader(file)), folder
        return kept[arguments]

    return call


def same(one: list[dict[str, str]], other: list[dict[str, str]]) -> None:
    for row, expected in zip(one, other, strict=True):
        assert row.keys() == expected.keys()
        for name in ("file", "label"):
            assert row[name] == expected[name]
        for name in CONTRACT.classes:
            assert float(row[name]) == pytest.approx(float(expected[name]), abs=1e-4)


def figures(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("test/")]


def test_onnx_answers_as_torch(infer):
    out, rows, folder = infer()
    assert len(rows) == 12 and len(figures(out)) == 6
    assert len({row["label"] for row in rows}) > 1, "or all answers would be the same anyway"
    onnx_out, onnx_rows, onnx_folder = infer("engine=onnx")
    same(onnx_rows, rows)
    assert figures(onnx_out) == figures(out)
    assert f"model_repository/{NAME}/10/model.onnx" in onnx_out
    for name in ("confusion_matrix.png", "worst_mistakes.png"):
        assert (folder / name).read_bytes() == (onnx_folder / name).read_bytes()


def test_triton_answers_as_torch(infer, server):
    out, rows, _ = infer()
    triton_out, triton_rows, _ = infer("engine=triton", f"server={server}")
    same(triton_rows, rows)
    assert figures(triton_out) == figures(out)
    assert f"{NAME} at {server}" in triton_out


def test_a_server_for_benchmarks_loads_nothing_for_others(server):
    from tritonclient.grpc import InferenceServerClient, InferenceServerException

    with pytest.raises(InferenceServerException, match="unload is not allowed"):
        InferenceServerClient(server).load_model(NAME)


def test_pictures_without_targets(infer, server):
    _, rows, folder = infer("engine=triton", f"server={server}", "input=data")
    assert len(rows) == 144 and "target" not in rows[0] and (folder / "predictions.png").exists()


def test_limit(infer):
    assert len(infer("engine=onnx", "trainer.limit_test_batches=1")[1]) == 8
    for limit, count in ((3, 24), (9, 33), (1.0, 33), (0.5, 16), (0.01, 8)):
        assert evaluate.limit_count(33, 8, limit) == count


NO_TORCH = """
import sys
sys.path.insert(0, sys.argv.pop(1))
picture, address, *settings = sys.argv[1:]
from infer import infer
from nano_cv.serving.client import main

sys.argv[1:] = [*settings, "engine=onnx", "logger.uri=sqlite:///mlflow.db"]
infer()
sys.argv[1:] = [*settings, "engine=triton", f"server={address}", "logger=none"]
infer()
sys.argv[1:] = [picture, f"--address={address}"]
try:
    main()
except SystemExit as end:
    print("status", end.code)
heavy = {"torch", "pytorch_lightning", "lightning_fabric", "torchmetrics", "torchvision", "timm"}
print("imported:", *sorted(heavy & sys.modules.keys()))
"""


def test_no_torch(home, server):
    """Neither for onnxruntime nor for Triton nor for the client, MLflow included."""
    settings = [option for option in FOR_INFER if not option.startswith("logger=")]
    picture = "data/flowers/aster/plant001_rgb.jpg"
    done = python("-c", NO_TORCH, str(ROOT), picture, server, *settings, cwd=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["status 0", "imported:"]
    assert done.stdout.count("MLflow run") == 1


def test_torch_and_little_else(home):
    """What trains, tracks, exports and serves takes seconds to load, and predicts nothing."""
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from infer import infer; infer(); "
        "print('imported:', *sorted(set(sys.modules) & {'pytorch_lightning', 'torchmetrics', "
        "'torchvision', 'timm', 'mlflow', 'onnx', 'onnxruntime', 'tritonclient'}))"
    )
    picture = "input=data/flowers/aster/plant001_rgb.jpg"
    done = python("-c", code, str(ROOT), *FOR_INFER, *TINY[:2], picture, cwd=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"


# The client


@pytest.fixture
def client(server) -> Iterator[Client]:
    with Client(server, timeout=5) as client:
        yield client


def test_client(client, home):
    assert client.models() == ["bare", NAME, f"{NAME}_from_jpeg"]
    assert client.metadata(NAME) == client.metadata(f"{NAME}_from_jpeg") == CONTRACT
    files = sorted(home.glob("data/flowers/*/*.jpg"))[:7]
    pixels = np.stack([pixels_of(file) for file in files])
    expected = Onnx(home / f"model_repository/{NAME}/10/model.onnx").predict({"IMAGES": pixels})
    answer = client.predict(NAME, pixels)  # 7: a whole part and a short one
    assert answer.keys() == {"CLASS_PROBS"} and answer["CLASS_PROBS"].dtype == np.float32
    assert np.allclose(answer["CLASS_PROBS"], expected["CLASS_PROBS"], atol=1e-6)

    contents = [file.read_bytes() for file in files]
    contents[3:3] = [b"not a picture", contents[0][:600], contents[0] * 99]
    answers = client.predict_encoded(NAME, contents)
    bad = [answers.pop(3) for _ in range(3)]
    for one, row in zip(answers, expected["CLASS_PROBS"], strict=True):
        assert isinstance(one, dict) and np.allclose(one["CLASS_PROBS"], row, atol=1e-6)
    for one, said in zip(
        bad, ("not a picture in a known", "damaged or cut", "bytes; at"), strict=True
    ):
        assert isinstance(one, ServerError) and said in str(one)


def pixels_of(file: Path) -> np.ndarray:
    from nano_cv.data import images

    return images.load(file, 32).transpose(2, 0, 1)


def test_what_the_client_refuses(client):
    images = np.zeros((2, 3, 32, 32), np.uint8)
    for wrong, given in (
        (images.astype(np.float32), "float32 [2, 3, 32, 32]"),
        (images[:, :, :9], "uint8 [2, 3, 9, 32]"),
        (images[0], "uint8 [3, 32, 32]"),
        (images[:0], "uint8 [0, 3, 32, 32]"),
    ):
        with pytest.raises(ServerError) as error:
            client.predict(NAME, wrong)
        said = f"{NAME}: IMAGES is UINT8 [B, 3, 32, 32], and given was {given}"
        assert str(error.value) == said
    with pytest.raises(ServerError, match=f"no model 'lenet_flower'; did you mean '{NAME}'"):
        client.predict("lenet_flower", images)
    with pytest.raises(ServerError, match="'bare' holds no metadata"):
        client.metadata("bare")


def test_servers_that_are_none():
    def said(port: int) -> str:
        client = Client(f"127.0.0.1:{port}", timeout=0.3)
        with client, pytest.raises(ServerError) as error:
            client.models()
        return str(error.value)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert said(port).startswith(f"127.0.0.1:{port}: no answer in 0.3 s")
    assert said(port).startswith(f"127.0.0.1:{port}: no Triton server answers there by gRPC (")
    assert said(port).endswith("python serve.py; its page and its gRPC have different ports")


def test_client_command_line(home, server, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    good = [str(file) for file in sorted(home.glob("data/flowers/aster/*.jpg"))[:2]]
    where = ["--address", server]
    module = ["-m", "nano_cv.serving.client"]
    done = python(*module, good[0], "bad.jpg", "gone.jpg", good[1], *where, cwd=tmp_path)
    assert done.returncode == 1
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["file", "label", *CONTRACT.classes]
    assert [row.split()[0] for row in rows] == good
    assert "error: bad.jpg: not a picture in a known format" in done.stderr
    assert "error: gone.jpg: cannot be read: No such file" in done.stderr
    wrong = python(*module, good[0], *where, "--model=lenet_flours", cwd=tmp_path)
    assert wrong.returncode == 1 and f"did you mean '{NAME}" in wrong.stderr
    assert "Traceback" not in wrong.stderr + done.stderr


# What infer.py refuses


def test_messages(home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    model = onnx.load(home / f"model_repository/{NAME}/10/model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = probe.getsockname()[1]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("infer", FOR_INFER)
    missing = f"none/{NAME}: no exported model; to make one, type: python export_model.py"
    file = f"model_repository/{NAME}/10/model.onnx"
    for typed, answer in {
        "engine=onnx paths.models=none": missing,
        "engine=onnx weights=gone.onnx": "gone.onnx: no such file",
        f"engine=onnx weights={tmp_path}/bad.onnx": "bad.onnx: onnxruntime cannot load it (",
        f"engine=onnx weights={tmp_path}/bare.onnx": "bare.onnx: holds no metadata; export_model",
        f"engine=onnx model.name=vgg weights={file}": "a model=lenet, not a model=vgg; type",
        "engine=onnx gradcam=true": "gradcam=true: only torch can look into a network; add engine",
        f"engine=triton server=127.0.0.1:{closed}": f"server=127.0.0.1:{closed}: no Triton server "
        "answers there by gRPC (",
        "engine=triton weights=a.onnx": "weights= has no meaning with engine=triton",
    }.items():
        changed = OmegaConf.merge(config, OmegaConf.from_dotlist(typed.split()))
        with pytest.raises(UserError) as error:
            make_engine(changed)
        assert answer in str(error.value) and "\n" not in str(error.value)


def test_server_that_is_none(run, home, monkeypatch):
    monkeypatch.chdir(home)
    done = run("infer", *FOR_INFER, "engine=triton", "server=127.0.0.1:9")
    assert done.status == 1 and done.err.startswith("error: server=127.0.0.1:9: no Triton server")
    assert "python serve.py" in done.err and "Traceback" not in done.err
    assert done.err.count("\n") == 1


def test_accelerator_that_is_not_there(monkeypatch, home):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"trainer\.accelerator=gpu: this machine has none"):
        Torch(torch.nn.Linear(1, 1), Path("x"), "gpu")  # type: ignore[arg-type]


# The report


def test_metrics_are_those_of_torchmetrics():
    """With a class that never occurs, and one that is only predicted."""
    metadata = Metadata(**{**CONTRACT.__dict__, "classes": list("abcde")})
    random = np.random.default_rng(0)
    scores = random.random((40, 5)).astype(np.float32) * [1, 1, 1, 1, 0]
    targets = random.integers(0, 3, 40)
    report = reports.find("classification")
    pictures = Pictures(Path(), [], targets.tolist())
    measured = report(metadata, {"CLASS_PROBS": scores}, pictures).metrics()
    given = torch.from_numpy(scores), torch.from_numpy(targets), 5
    recall = multiclass_recall(*given, average="none")
    expected = {
        "accuracy": float((scores.argmax(1) == targets).mean()),
        "f1": float(multiclass_f1_score(*given, average="macro")),
        **{f"recall/{'abcde'[label]}": float(recall[label]) for label in np.unique(targets)},
    }
    assert measured.pop("ece") >= 0
    assert measured == pytest.approx(expected, abs=1e-6)


def test_task_without_a_report():
    """Nor is a name from a foreign file imported that is no module of ours."""
    for name in ("counting", "os.path", "..tracking", "weights"):
        with pytest.raises(UserError, match=r"no report for .*nano_cv/evaluation/reports/.* or"):
            reports.find(name)
    assert "nano_cv.evaluation.reports.os.path" not in sys.modules


def test_a_task_of_ones_own_has_its_report_in_its_file(tmp_path, monkeypatch):
    from nano_cv import tasks

    (tmp_path / "counting.py").write_text(
        "from nano_cv.evaluation.reports import Report\n"
        "class HowMany(Report):\n"
        "    gate = 'right'\n"
    )
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "nano_cv.tasks.counting", raising=False)
    assert reports.find("counting").gate == "right"
    monkeypatch.delitem(sys.modules, "nano_cv.tasks.counting")
