"""Every task, three engines, the same answers; two of them and the client without torch."""

import json
import shlex
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pandas
import pytest
import torch
from conftest import (
    CONTRACT,
    ROOT,
    SHOP,
    TINY,
    compose,
    python,
    read_csv,
    refused,
    skip_without_triton,
)
from omegaconf import OmegaConf, open_dict
from pandas.testing import assert_frame_equal
from PIL import Image

from benchmarks.serving import comparison
from benchmarks.serving.trial import Trial
from nano_cv.data import images
from nano_cv.errors import UserError
from nano_cv.evaluation import evaluate, reports
from nano_cv.evaluation.client import Client, ServerError
from nano_cv.evaluation.engines import Torch
from nano_cv.evaluation.exported import Onnx
from nano_cv.evaluation.opening import find_export, make_engine
from nano_cv.evaluation.trained import check_pixels
from nano_cv.metadata import read_metadata
from nano_cv.serving import triton

NAME = "lenet_flowers"
CLASSES = ["aster", "basil", "clover"]
FOR_INFER = [option for option in TINY if not option.startswith("model.")]
EXPORTED = f"model_repository/{NAME}/1/model.onnx"
KEPT: dict[tuple[str, ...], tuple[str, Path]] = {}  # what `infer` has answered


@pytest.fixture(scope="module")
def server(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Triton with what is trained and exported here, all four tasks."""
    skip_without_triton()
    with Trial(shop / "model_repository", tmp_path_factory.mktemp("served_shop")) as trial:
        trial.wait_ready()
        yield f"127.0.0.1:{trial.ports['grpc_port']}"


@pytest.fixture
def infer(succeeds, in_shop):
    """Runs infer.py in the shop, once for all with the same arguments: output and folder."""

    def call(model: str, *arguments: str) -> tuple[str, Path]:
        if (model, *arguments) not in KEPT:
            folder = in_shop / "runs" / "kept" / str(len(KEPT))
            done = succeeds("infer", *SHOP[model], *arguments, f"hydra.run.dir={folder}")
            KEPT[(model, *arguments)] = done.out, folder
        return KEPT[(model, *arguments)]

    return call


def figures(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("test/")]


def written(folder: Path) -> list[str]:
    """What infer.py or the client left there."""
    files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return sorted(
        str(file) for file in files if file.parts[0] != ".hydra" and file.suffix != ".log"
    )


def alike(one: Path, other: Path, apart: float = 2e-3) -> None:
    assert written(one) == written(other)
    for name in written(one):
        if name == "predictions.csv":
            tables = [pandas.read_csv(folder / name) for folder in (one, other)]
            assert_frame_equal(*tables, check_dtype=False, atol=apart, rtol=0)
        elif name == "detections.json":
            same_boxes(one / name, other / name)
        elif name.startswith(("masks", "pictures")):
            first, second = (np.asarray(Image.open(folder / name)) for folder in (one, other))
            other_by = np.abs(first.astype(int) - second)
            assert (other_by > 0).mean() < 0.01 if "masks" in name else other_by.max() <= 2


def same_boxes(one: Path, other: Path) -> None:
    """In any order: equal scores may change places; and but for those at the limit of 0.01."""
    first, second = (json.loads(file.read_text()) for file in (one, other))
    assert first["images"] == second["images"] and first["categories"] == second["categories"]
    assert first["annotations"]
    for some, others in ((first, second), (second, first)):
        for box in some["annotations"]:
            near = (
                np.allclose(box["bbox"], candidate["bbox"], atol=0.2)
                and abs(box["score"] - candidate["score"]) < 1e-3
                for candidate in others["annotations"]
                if all(box[key] == candidate[key] for key in ("image_id", "category_id"))
            )
            assert box["score"] < 0.011 or any(near)


@pytest.mark.parametrize("engine", ["onnx", "triton"])
@pytest.mark.parametrize("model", SHOP)
def test_the_same_from_every_engine(request, drawn, infer, model, engine):
    address = [f"server={request.getfixturevalue('server')}"] if engine == "triton" else []
    expected, by_torch = infer(model)
    out, folder = infer(model, f"engine={engine}", *address)
    alike(by_torch, folder, 1e-4 if model == "lenet" else 2e-3)
    kinds = {"centernet": "detections.json", "unet": "masks", "flow": "pictures"}
    assert (folder / kinds.get(model, "predictions.csv")).exists()
    if model != "lenet":
        return
    assert figures(out) == figures(expected) and len(figures(out)) >= 6
    labels = {row["label"] for row in read_csv(folder / "predictions.csv")}
    assert len(labels) > 1, "or all would be the same anyway"
    assert (EXPORTED if engine == "onnx" else f"{NAME} at {address[0][7:]}") in out
    for name in ("confusion_matrix.png", "worst_mistakes.png"):
        assert (folder / name).read_bytes() == (by_torch / name).read_bytes()


def test_limit():
    for limit, count in ((3, 24), (9, 33), (1.0, 33), (0.5, 16), (0.01, 8)):
        assert evaluate.limit_count(33, 8, limit) == count


def test_the_newest_version_is_taken(tmp_path):
    for name in ("2", "10", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").touch()
    assert find_export(tmp_path) == tmp_path / "10/model.onnx"


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
sys.argv[1:] = [picture, f"--address={address}", "--model=lenet_flowers"]
try:
    main()
except SystemExit as end:
    print("status", end.code)
heavy = {"torch", "pytorch_lightning", "lightning_fabric", "torchmetrics", "torchvision", "timm"}
print("imported:", *sorted(heavy & sys.modules.keys()))
"""


def test_no_torch(shop, server):
    """Neither for onnxruntime nor for Triton nor for the client, MLflow included."""
    settings = [option for option in FOR_INFER if not option.startswith("logger=")]
    picture = "data/flowers/aster/plant001_rgb.jpg"
    done = python("-c", NO_TORCH, str(ROOT), picture, server, *settings, cwd=shop)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["status 0", "imported:"]
    assert done.stdout.count("MLflow run") == 1


@pytest.fixture
def client(server) -> Iterator[Client]:
    with closing(Client(server, timeout=5)) as client:
        yield client


def test_client(client, shop):
    names = [f"{model}_flowers{end}" for model in SHOP for end in ("", "_from_jpeg")]
    names.remove("flow_flowers_from_jpeg")
    assert client.models() == sorted(names)
    metadata = read_metadata(shop / f"weights/{NAME}.safetensors")
    assert client.metadata(NAME) == client.metadata(f"{NAME}_from_jpeg") == metadata
    files = sorted(shop.glob("data/flowers/*/*.jpg"))[:7]
    pixels = np.stack([images.load(file, [32, 64]).transpose(2, 0, 1) for file in files])
    expected = Onnx(shop / EXPORTED).predict({"IMAGES": pixels})
    answer = client.infer(NAME, {"IMAGES": pixels})  # 7: a whole part and a short one
    assert answer.keys() == expected.keys() and answer["CLASS_PROBS"].dtype == np.float32
    assert np.allclose(answer["CLASS_PROBS"], expected["CLASS_PROBS"], atol=1e-6)

    contents = [file.read_bytes() for file in files]
    contents[3:3] = [b"not a picture", contents[0][:600], contents[0] * 99]
    answers = client.predict_encoded(NAME, contents)
    bad = [answers.pop(3) for _ in range(3)]
    for one, row in zip(answers, expected["CLASS_PROBS"], strict=True):
        assert isinstance(one, dict) and np.allclose(one["CLASS_PROBS"], row, atol=1e-6)
    words = ("not a picture in a known", "damaged or cut", "bytes; at")
    for one, said in zip(bad, words, strict=True):
        assert isinstance(one, ServerError) and said in str(one)


def test_what_the_client_refuses(client):
    images = np.zeros((2, 3, 32, 64), np.uint8)
    with pytest.raises(ServerError, match="data-type is 'FP32'"):
        client.infer(NAME, {"IMAGES": images.astype(np.float32)})
    with pytest.raises(ServerError, match=f"no model 'lenet_flower'; did you mean '{NAME}'"):
        client.infer("lenet_flower", {"IMAGES": images})


def test_a_server_that_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with closing(Client(address, timeout=0.3)) as client:
            assert refused(client.models).startswith(f"{address}: no answer in 0.3 s")


def test_client_command_line(run, fails, shop, server, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    good = [str(file) for file in sorted(shop.glob("data/flowers/aster/*.jpg"))[:2]]
    client, where = "nano_cv.serving.client", ("--address", server)
    lenet = ("--model", NAME)
    done = run(client, good[0], "bad.jpg", "gone.jpg", good[1], *where, *lenet)
    assert done.status == 1
    head, *rows = done.out.splitlines()
    assert head.split() == ["file", "label", "label_set", "foreign", *CLASSES]
    assert [row.split()[0] for row in rows] == good
    assert "error: bad.jpg: not a picture in a known format" in done.err
    assert "error: gone.jpg: cannot be read: No such file" in done.err
    for model, said in (
        ((), "--model with one of: centernet_flowers, lenet_flowers, unet_flowers"),
        (("--model=flow_flowers",), "no model 'flow_flowers' that takes pictures"),
        (("--model=lenet_flours",), f"did you mean '{NAME}"),
    ):
        assert said in fails(client, good[0], *where, *model)


@pytest.mark.parametrize("model", ["lenet", "centernet", "unet"])
def test_client_writes_what_infer_writes(
    succeeds, drawn, shop, server, tmp_path, monkeypatch, model
):
    """Of a photograph of another shape and size than the network's, in its own pixels."""
    monkeypatch.chdir(tmp_path)
    with Image.open(shop / "data/flowers/aster/plant001_rgb.jpg") as picture:
        picture.resize((333, 200)).save("photo.jpg")
    where = ("--model", f"{model}_flowers", "--address", server)
    done = succeeds("nano_cv.serving.client", "photo.jpg", "--output", "answers", *where)
    assert "written to answers" in done.out, done.err
    assert "photo.jpg" in done.out

    monkeypatch.chdir(shop)
    given = ("infer", *SHOP[model], f"input={tmp_path / 'photo.jpg'}")
    succeeds(*given, f"hydra.run.dir={tmp_path / 'inferred'}")
    (tmp_path / "inferred/predictions.csv").unlink()  # the client prints it
    alike(tmp_path / "inferred", tmp_path / "answers")
    assert np.asarray(Image.open(tmp_path / "answers/predictions.png")).std() > 0
    if model == "centernet":
        found = json.loads((tmp_path / "answers/detections.json").read_text())
        assert [found["images"][0][key] for key in ("width", "height")] == [333, 200]
        corners = np.array([box["bbox"] for box in found["annotations"]])
        assert corners[:, 0].max() > 64, "boxes are in pixels of the network, not of the photograph"
    if model == "unet":
        for name in ("masks/photo.png", "overlays/photo.jpg"):
            assert Image.open(tmp_path / "answers" / name).size == (333, 200)


def test_messages(in_shop, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    model = onnx.load(EXPORTED)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    (closed,) = triton.free_ports(1)
    config = compose("infer", *FOR_INFER)
    missing = f"none/{NAME}: no exported model; to make one, type: python export_model.py"
    for typed, answer in {
        "engine=onnx paths.models=none": missing,
        "engine=onnx weights=gone.onnx": "gone.onnx: onnxruntime cannot load it (",
        f"engine=onnx weights={tmp_path}/bad.onnx": "bad.onnx: onnxruntime cannot load it (",
        f"engine=onnx weights={tmp_path}/bare.onnx": "bare.onnx: holds no metadata; export_model",
        f"engine=onnx model.name=vgg weights={EXPORTED}": "a model=lenet, not a model=vgg; type",
        "engine=onnx gradcam=true": "gradcam=true: only torch can look into a network; add engine",
        f"engine=triton server=127.0.0.1:{closed}": f"server=127.0.0.1:{closed}: no Triton server "
        "answers there by gRPC (",
        "engine=triton weights=a.onnx": "weights= has no meaning with engine=triton",
    }.items():
        changed = OmegaConf.merge(config, OmegaConf.from_dotlist(typed.split()))
        said = refused(partial(make_engine, changed))
        assert answer in said and "\n" not in said


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("engine=onnx model.image_size=48", "with other options of lenet; add: 'model.image_size="),
        ("engine=onnx model.fit=letterbox", "with another fit; type 'model.fit=stretch'"),
        ("engine=torch model.fit=letterbox", "with another fit; type 'model.fit=stretch'"),
    ],
)
def test_options_of_another_model_than_the_exported(fails, in_shop, typed, answer):
    assert f"trained {answer}" in fails("infer", *SHOP["lenet"], *typed.split())


def test_a_model_file_may_leave_out_how_pixels_are_normalised():
    config = compose("infer", *TINY)
    with open_dict(config):
        for key in ("fit", "mean", "std"):
            del config.model[key]
    check_pixels(config, CONTRACT, "model.onnx")


def test_what_an_export_has_fixed(fails, infer):
    fixed = "model.task.max_detections"
    _, folder = infer("centernet", f"{fixed}=3")
    rows = Counter(row["file"] for row in read_csv(folder / "predictions.csv"))
    assert max(rows.values()) <= 3
    said = fails("infer", *SHOP["centernet"], "engine=onnx", f"{fixed}=3")
    assert f"{fixed}=3: " in said and "was exported with 20, which is fixed" in said


def test_accelerator_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"trainer\.accelerator=gpu: this machine has none"):
        Torch(torch.nn.Linear(1, 1), Path("x"), "gpu")  # type: ignore[arg-type]


def test_a_task_of_ones_own_has_its_report_in_its_file(tmp_path, monkeypatch):
    from nano_cv import tasks

    # Nor is a name from a foreign file imported that is no module of ours.
    for name in ("counting", "os.path", "..tracking", "weights"):
        assert "no report for" in refused(partial(reports.find, name))
    assert "nano_cv.evaluation.reports.os.path" not in sys.modules
    (tmp_path / "counting.py").write_text(
        "from nano_cv.evaluation.reports import Report\n"
        "class HowMany(Report):\n"
        "    gate = 'right'\n"
    )
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "nano_cv.tasks.counting", raising=False)
    assert reports.find("counting").gate == "right"
    monkeypatch.delitem(sys.modules, "nano_cv.tasks.counting")


def test_benchmark_of_a_generator(succeeds, in_shop, server, monkeypatch):
    """Which takes no pictures; a classifier is measured by the README's commands."""
    settings = [setting for setting in SHOP["flow"] if setting.startswith("model")]
    monkeypatch.setattr(comparison, "measure", partial(comparison.measure, warmup=0.02))
    quick = ["delays_us=[0]", "instances=[1]", "seconds=0.1", "min_rounds=1", "max_rounds=1"]
    done = succeeds("benchmark", *settings, *quick)
    assert "in process" in done.out and "| float32 | 1 | 0 |" in done.out
    for row in ("best, from JPEG", "by REST", "prototype, binary pixels", "ten lines"):
        assert row not in done.out


def test_output_that_nobody_reads(flowers, untrained):
    """As in `| head`, and with standard error closed: what was asked for is still done."""
    line = f"{shlex.join([sys.executable, str(ROOT / 'infer.py'), *TINY, f'input={flowers}'])}"
    done = subprocess.run(
        ["bash", "-c", f"{line} 2>&- | head -c 1; exit ${{PIPESTATUS[0]}}"], capture_output=True
    )
    assert done.returncode == 0 and len(done.stdout) == 1
    assert list(Path("runs/infer").rglob("predictions.png"))
