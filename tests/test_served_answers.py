"""What is trained and exported here, all four tasks at once, behind the real Triton."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_OF, python
from PIL import Image

from benchmarks.serving.trial import Trial
from nano_cv.errors import UserError
from nano_cv.export.validate import check_repository, read_config
from nano_cv.serving import triton

try:
    triton.find_wheel()
except UserError as missing:
    pytest.skip(str(missing), allow_module_level=True)


@pytest.fixture(scope="module")
def served_shop(shop, tmp_path_factory):
    """Its models, behind one server."""
    with Trial(shop / "model_repository", tmp_path_factory.mktemp("served_shop")) as trial:
        trial.wait_ready()
        yield trial


def address(trial) -> str:
    return f"127.0.0.1:{trial.ports['grpc_port']}"


def written(folder: Path) -> list[str]:
    """What infer.py or the client left there."""
    files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return sorted(
        str(file) for file in files if file.parts[0] != ".hydra" and file.suffix != ".log"
    )


def alike(one: Path, other: Path) -> None:
    """The same files, and the same in them."""
    assert written(one) == written(other)
    for name in written(one):
        if name == "predictions.csv":
            same_tables(one / name, other / name)
        elif name == "detections.json":
            same_boxes(one / name, other / name)
        elif name.startswith(("masks", "pictures")):
            first, second = (np.asarray(Image.open(folder / name)) for folder in (one, other))
            apart = np.abs(first.astype(int) - second)
            assert (apart > 0).mean() < 0.01 if name.startswith("masks") else apart.max() <= 2


def same_tables(one: Path, other: Path) -> None:
    with one.open() as first, other.open() as second:
        for row, expected in zip(csv.reader(first), csv.reader(second), strict=True):
            for value, wanted in zip(row, expected, strict=True):
                try:
                    assert float(value) == pytest.approx(float(wanted), abs=2e-3)
                except ValueError:
                    assert value == wanted


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


@pytest.mark.parametrize("model", TINY_OF)
def test_triton_answers_as_torch(run, shop, served_shop, tmp_path, monkeypatch, model):
    monkeypatch.chdir(shop)
    for engine in ("torch", "triton"):
        done = run(
            *("infer", *TINY_OF[model], f"engine={engine}", f"server={address(served_shop)}"),
            f"hydra.run.dir={tmp_path / engine}",
        )
        assert done.status == 0, done.err
    alike(tmp_path / "torch", tmp_path / "triton")
    kinds = {"centernet": "detections.json", "unet": "masks", "flow": "pictures"}
    assert (tmp_path / "triton" / kinds.get(model, "predictions.csv")).exists()


@pytest.mark.parametrize("model", ["lenet", "centernet", "unet"])
def test_client_writes_what_infer_writes(run, shop, served_shop, tmp_path, monkeypatch, model):
    """Of a photograph of another shape and size than the network's, in its own pixels."""
    monkeypatch.chdir(tmp_path)
    with Image.open(shop / "data/flowers/aster/plant001_rgb.jpg") as picture:
        picture.resize((333, 200)).save("photo.jpg")
    module = ("-m", "nano_cv.serving.client", "photo.jpg", "--output", "answers")
    where = ("--model", f"{model}_flowers", "--address", address(served_shop))
    done = python(*module, *where, cwd=tmp_path)
    assert done.returncode == 0 and "written to answers" in done.stdout, done.stderr
    assert "photo.jpg" in done.stdout

    monkeypatch.chdir(shop)
    given = ("infer", *TINY_OF[model], f"input={tmp_path / 'photo.jpg'}")
    assert run(*given, f"hydra.run.dir={tmp_path / 'inferred'}").status == 0
    (tmp_path / "inferred/predictions.csv").unlink()  # the client prints it
    alike(tmp_path / "inferred", tmp_path / "answers")
    assert np.asarray(Image.open(tmp_path / "answers/predictions.png")).std() > 0
    if model == "centernet":
        found = json.loads((tmp_path / "answers/detections.json").read_text())
        assert [found["images"][0][key] for key in ("width", "height")] == [333, 200]
        corners = np.array([box["bbox"] for box in found["annotations"]])
        assert corners[:, 0].max() > 64, "boxes are in pixels of the network, not of the photograph"
    if model == "unet":
        assert Image.open(tmp_path / "answers/masks/photo.png").size == (333, 200)
        assert Image.open(tmp_path / "answers/overlays/photo.jpg").size == (333, 200)


def test_client_asks_which_model(served_shop, shop, tmp_path):
    """A generator takes no pictures, and is not among them."""
    picture = str(shop / "data/flowers/aster/plant001_rgb.jpg")
    client = ("-m", "nano_cv.serving.client", picture, "--address", address(served_shop))
    done = python(*client, cwd=tmp_path)
    assert done.returncode == 1
    assert "--model with one of: centernet_flowers, lenet_flowers, unet_flowers" in done.stderr
    done = python(*client, "--model=flow_flowers", cwd=tmp_path)
    assert done.returncode == 1 and "no model 'flow_flowers' that takes pictures" in done.stderr


def test_benchmark_measures_a_real_server(run, shop, tmp_path):
    """All rows, the files, and the best setting written into config.pbtxt."""
    models = shutil.copytree(shop / "model_repository", tmp_path / "model_repository")
    for name in ("data", "weights"):
        (tmp_path / name).symlink_to(shop / name)
    settings = [setting for setting in TINY_OF["lenet"] if setting.startswith("model")]
    grid = ["delays_us=[0, 700]", "instances=[2]", "seconds=0.2", "min_rounds=1", "max_rounds=1"]
    done = run("benchmark", *settings, *grid, "write=true")
    assert done.status == 0, done.err
    for row in ("| float32 | 2 | 0 |", "| float32 | 2 | 700 |", "in process", "best, from JPEG"):
        assert row in done.out
    for row in ("by REST", "prototype, binary pixels", "FastAPI, binary", "FastAPI, from JPEG"):
        assert row in done.out
    (folder,) = tmp_path.glob("runs/benchmark/lenet_flowers/*")
    for name in ("benchmark.md", "benchmark.csv", "benchmark.png"):
        assert (folder / name).stat().st_size > 100
    config = read_config(models / "lenet_flowers/config.pbtxt")
    assert config.instance_group[0].count == 2
    assert config.dynamic_batching.max_queue_delay_microseconds in (0, 700)
    assert not any(check_repository(models).values())


@pytest.mark.parametrize("model", ["centernet", "unet", "flow"])
def test_benchmark_of_every_task(run, shop, monkeypatch, model):
    monkeypatch.chdir(shop)
    settings = [setting for setting in TINY_OF[model] if setting.startswith("model")]
    quick = ["delays_us=[0]", "instances=[1]", "seconds=0.2", "min_rounds=1", "max_rounds=1"]
    done = run("benchmark", *settings, *quick)
    assert done.status == 0, done.err
    assert "in process" in done.out and "| float32 | 1 | 0 |" in done.out
    for row in ("best, from JPEG", "by REST", "prototype, binary pixels", "ten lines"):
        assert (row in done.out) == (model != "flow")
