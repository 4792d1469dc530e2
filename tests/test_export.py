"""What `export_model.py` leaves in the model repository, and what it refuses to."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import TINY, make_flowers, run_in

from nano_cv.contract import Contract
from nano_cv.export import precision, repository
from nano_cv.export.validate import check_repository, read_config


@pytest.fixture(scope="module")
def trained(exported_once, tmp_path_factory) -> Path:
    """A folder in which a tiny model has been trained."""
    folder = tmp_path_factory.mktemp("trained")
    make_flowers(folder / "data" / "flowers")
    run_in(folder, "train", *TINY, "test=false")
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it to export in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def models(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("model_repository/*"))


def test_export(here, run):
    """Two versions, a config that Triton accepts, the contract, and parity with torch."""
    for version in ("1", "2"):
        done = run("export_model", *TINY)
        assert done.status == 0, done.err
        assert f"model_repository/lenet_flowers/{version}" in done.out
    assert models(here) == ["decode_32", "lenet_flowers", "lenet_flowers_from_jpeg"]
    assert not any(check_repository(here / "model_repository").values())
    folder = here / "model_repository" / "lenet_flowers"
    assert (folder / "labels.txt").read_text().split() == ["aster", "basil", "clover"]

    config = read_config(folder / "config.pbtxt")
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 4)
    assert config.dynamic_batching.max_queue_delay_microseconds == 4000
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert [group.count for group in config.instance_group] == [1]

    metadata = {item.key: item.value for item in onnx.load(folder / "2/model.onnx").metadata_props}
    contract = Contract.from_json(metadata["contract"])
    assert contract.classes == ["aster", "basil", "clover"]
    for name in ("lenet_flowers", "lenet_flowers_from_jpeg"):  # where clients read it
        served = read_config(here / "model_repository" / name / "config.pbtxt")
        assert Contract.from_json(served.parameters["contract"].string_value) == contract
    assert float(metadata["parity/probability"]) < 1e-4
    assert float(metadata["parity/pictures"]) == 12 + 5
    assert metadata["precision"] == "float32"
    assert metadata["val/accuracy/torch"] == metadata["val/accuracy/float32"]

    session = onnxruntime.InferenceSession(folder / "2/model.onnx")
    for batch in (1, 3):
        images = np.zeros((batch, 3, 32, 32), np.uint8)
        (answers,) = session.run(["CLASS_PROBS"], {"IMAGES": images})
        assert answers.shape == (batch, 3)
        assert answers.sum(axis=1) == pytest.approx(np.ones(batch), abs=1e-5)


def test_options_reach_the_config(here, run):
    """Those of the second export: the first one's are replaced."""
    options = {
        "max_batch_size": 8,
        "instances": 2,
        "max_queue_delay_us": 500,
        "threads": 3,
        "max_queue_size": 16,
        "queue_timeout_us": 70000,
        "decode_instances": 3,
    }
    done = run("export_model", *TINY, *(f"triton.{key}={value}" for key, value in options.items()))
    assert done.status == 0, done.err
    config = read_config(here / "model_repository/lenet_flowers/config.pbtxt")
    assert config.max_batch_size == 8
    assert config.instance_group[0].count == 2
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (16, 70000)
    decoder = read_config(here / "model_repository/decode_32/config.pbtxt")
    assert decoder.instance_group[0].count == 3


def test_beyond_tolerance_nothing_is_published(here, run):
    done = run("export_model", *TINY, "tolerance=0")
    assert done.status == 1
    assert "nothing was published" in done.err
    assert "_rgb.jpg" in done.err  # the pictures that differ
    assert models(here) == []


def test_int8_that_loses_too_much_is_not_published(here, run):
    done = run("export_model", *TINY, "precision=int8", "max_drop=-1")
    assert done.status == 1
    assert "precision=int8: validation accuracy falls by" in done.err
    assert models(here) == []


def test_int8_that_passes_is_published(here, run, monkeypatch):
    """Whether it is faster depends on the machine; here both ways are tried."""
    monkeypatch.setattr(precision, "_speeds", lambda runs: [1.0, 0.9][: len(runs)])
    done = run("export_model", *TINY, "precision=int8", "max_drop=1")
    assert done.status == 1
    assert "0.90 times the speed of float32" in done.err
    assert models(here) == []

    monkeypatch.setattr(precision, "_speeds", lambda runs: [1.0, 1.5][: len(runs)])
    done = run("export_model", *TINY, "precision=auto", "max_drop=1")
    assert done.status == 0, done.err
    model = onnx.load(here / "model_repository/lenet_flowers/1/model.onnx")
    assert {item.key: item.value for item in model.metadata_props}["precision"] == "int8"
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    produced = {output: node.op_type for node in model.graph.node for output in node.output}
    inputs = [produced.get(node.input[0]) for node in convolutions]
    assert inputs[0] != "DequantizeLinear"  # the convolution of pixels stays in float32
    assert inputs[1:] == ["DequantizeLinear"] * len(inputs[1:])


def test_a_failed_publication_leaves_nothing(here, run, monkeypatch):
    monkeypatch.setattr(repository, "check_model", lambda *_: ["dims: 3 is not 4"])
    done = run("export_model", *TINY)
    assert done.status == 1
    assert "dims: 3 is not 4" in done.err
    assert list((here / "model_repository").iterdir()) == []


def test_missing_weights(flowers, run):
    done = run("export_model", *TINY, "weights=no.safetensors")
    assert done.status == 1
    assert "no.safetensors: no such file" in done.err


def test_weights_of_other_classes(here, run):
    for split in ("train", "val", "test"):
        list_file = here / f"data/flowers/{split}.txt"
        list_file.write_text(list_file.read_text().replace("basil/", "dill/"))
    (here / "data/flowers/basil").rename(here / "data/flowers/dill")
    done = run("export_model", *TINY)
    assert done.status == 1
    assert "the weights know aster, basil, clover" in done.err


def test_benchmark_without_a_model(flowers, run):
    done = run("benchmark")
    assert done.status == 1
    assert "python export_model.py +data=flowers +model=lenet" in done.err
