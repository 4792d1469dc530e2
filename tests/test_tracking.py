"""Tracking keeps what makes a run repeatable, and never takes a training along when it fails."""

import re
import socket
from pathlib import Path

import mlflow
import pytest
from conftest import TINY
from mlflow.entities import Run

from nano_cv import weights
from nano_cv.contract import git_commit
from nano_cv.tracking import key

SETTINGS = [option for option in TINY if not option.startswith("logger=")]
FILE = Path("weights/lenet_flowers.safetensors")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for all tests here, for MLflow takes seconds to make it; the blank is meant."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'my runs.db'}"


def record(uri: str, folder: Path) -> Run:
    """The only run that was made below `folder`."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("nano-cv")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    (run,) = [run for run in runs if run.data.tags["folder"].startswith(str(folder))]
    return run


def test_record_of_a_training(run, flowers, tmp_path, database):
    settings = [*SETTINGS, f"logger.uri='{database}'"]
    trained = run("train", *settings, "test=false")
    assert trained.status == 0, trained.err
    first = record(database, tmp_path)
    contract = weights.read_contract(FILE)
    assert contract.run_id == first.info.run_id and first.info.run_id in trained.out
    assert first.data.tags["job"] == "train"
    assert first.data.tags["commit"] == contract.git_commit == git_commit()
    assert first.data.tags["data_hash"] == contract.data_hash
    assert re.fullmatch("[0-9a-f]{64}", contract.data_hash)
    assert first.data.params["model/image_size"] == "32" and first.data.params["seed"] == "0"
    assert first.data.metrics.keys() >= {"train/loss_epoch", "val/accuracy", "val/f1", "val/loss"}

    resumed = run("train", *settings, "resume=true", "trainer.max_epochs=2")
    assert resumed.status == 0 and "MLflow failed" not in resumed.out + resumed.err
    second = record(database, tmp_path)
    assert second.info.run_id == first.info.run_id, "a resumed run goes on in its own record"
    assert second.info.status == "FINISHED"
    client = mlflow.MlflowClient(database)
    epochs = client.get_metric_history(second.info.run_id, "val/accuracy")
    assert len(epochs) == 2
    assert "test/accuracy" in second.data.metrics
    kept = {file.path for file in client.list_artifacts(second.info.run_id)}
    drawn = {"data.png", "confusion_matrix.png", "worst_mistakes.png"}
    assert kept == {*drawn, "predictions.csv", "metrics.json"}


def test_record_of_a_prediction(run, flowers, tmp_path, database):
    assert run("train", *TINY, "test=false").status == 0
    done = run("infer", *SETTINGS, f"logger.uri='{database}'", "input=data/flowers/aster")
    assert done.status == 0, done.err
    kept = record(database, tmp_path / "runs" / "infer")
    assert kept.info.status == "FINISHED" and kept.data.tags["job"] == "infer"
    files = mlflow.MlflowClient(database).list_artifacts(kept.info.run_id)
    assert {file.path for file in files} == {"predictions.csv", "predictions.png"}


@pytest.mark.parametrize("method", ["log_batch", "set_terminated"])
def test_server_that_dies(run, flowers, tmp_path, database, monkeypatch, method):
    def fail(*_: object, **__: object) -> None:
        raise mlflow.MlflowException("Connection refused\nand a long story")

    calls: list[object] = []
    original = getattr(mlflow.MlflowClient, method)

    def dies(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        return (fail if len(calls) > (method == "log_batch") else original)(*arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, method, dies)
    done = run("train", *SETTINGS, f"logger.uri='{database}'", "trainer.max_epochs=2")
    assert done.status == 0, done.err
    said = done.out + done.err
    assert said.count("MLflow failed; going on without tracking: Connection refused\n") == 1
    assert "a long story" not in said and "mlflow ui" not in said
    assert weights.read_contract(FILE).classes == ["aster", "basil", "clover"]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_tracking_that_cannot_be_used(run, flowers, tmp_path, monkeypatch):
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "notes.db").write_bytes(b"Dear diary, " * 99)
    for uri, answer in {
        f"http://127.0.0.1:{closed_port()}": "the tracking server does not answer ([Errno",
        "http://": "the tracking server does not answer (no host given)",
        "sqlite:///notes.db": "cannot be used for tracking (",
        "sqlite:////dev/null/mlflow.db": "cannot be used for tracking (",
        "postgresql://me@127.0.0.1/runs": "cannot be used for tracking (No module named 'psy",
        "carrier://pigeon": "cannot be used for tracking (Model registry functionality is",
    }.items():
        done = run("train", *SETTINGS, f"logger.uri={uri}")
        assert done.status == 1
        assert done.err.startswith(f"error: logger.uri={uri}: {answer}"), done.err
        assert done.err.endswith("or add logger=csv or logger=none\n") and done.err.count("\n") == 1
    assert not FILE.exists()


def test_csv(run, flowers, tmp_path, monkeypatch):
    monkeypatch.setattr("nano_cv.tracking.MLflow", lambda *_: pytest.fail("MLflow is not wanted"))
    assert run("train", *SETTINGS, "logger=csv").status == 0
    files = tmp_path.glob("runs/train/lenet_flowers/*/csv/version_0/*")
    assert sorted(file.name for file in files) == ["hparams.yaml", "metrics.csv"]
    assert not (tmp_path / "mlflow.db").exists() and not (tmp_path / "mlruns").exists()


NAMES = [
    "C",
    "C++",
    "C#",
    "..",
    ".",
    "a/../b",
    "/a",
    "a/",
    "//",
    "",
    " a ",
    "ü",
    "u\u0308",
    "a:b",
    "$",
]
NAMES += [
    "_x2B_",
    "C_x2B__x2B_",
    "_x_",
    "=1",
    "a\n",
    "\udc80",
    "日本",
    "z" * 300,
    "z" * 301,
    "+" * 200,
]


def test_every_class_has_a_key_of_its_own(database):
    """One that MLflow takes, and of which the name can be read back."""
    client = mlflow.MlflowClient(database)
    run = client.create_run("0")
    keys = {name: key(f"test/recall/{name}") for name in NAMES} | {
        name + "!": key(name) for name in NAMES
    }
    assert len(set(keys.values())) == len(keys)
    metrics = [mlflow.entities.Metric(each, 1.0, 0, 0) for each in keys.values()]
    client.log_batch(run.info.run_id, metrics=metrics)
    assert client.get_run(run.info.run_id).data.metrics.keys() == set(keys.values())
    for name in NAMES:
        if len(name) < 200:
            back = re.sub("_x([0-9A-F]+)_", lambda found: chr(int(found[1], 16)), keys[name])
            assert back == f"test/recall/{name}"
    assert key("train/loss_epoch") == "train/loss_epoch"
