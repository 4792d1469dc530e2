"""Tracking keeps what makes a run repeatable, and never takes a training along when it fails."""

import re
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import onnx
import pytest
from conftest import CONTRACT, TINY
from mlflow.entities import Run
from tiny_models import model_of

from nano_cv.evaluation import tracking
from nano_cv.evaluation.tracking import key
from nano_cv.metadata import git_commit
from nano_cv.serving import triton
from nano_cv.tasks import weights

SETTINGS = [option for option in TINY if not option.startswith("logger=")]
FILE = Path("weights/lenet_flowers.safetensors")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for all tests here, for MLflow takes seconds to make it; the blank is meant."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'my runs.db'}"


def record(uri: str, folder: Path, experiment_name: str = "nano-cv") -> Run:
    """The only run that was made below `folder`."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(experiment_name)
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    (run,) = [run for run in runs if run.data.tags["folder"].startswith(str(folder))]
    return run


def test_record_of_a_training(succeeds, drawn, flowers, tmp_path, database):
    settings = [*SETTINGS, f"logger.uri='{database}'", "trainer.log_every_n_steps=1"]
    trained = succeeds("train", *settings, "test=false")
    first = record(database, tmp_path)
    metadata = weights.read_metadata(FILE)
    assert metadata.run_id == first.info.run_id
    page = f"#/experiments/{first.info.experiment_id}/runs/{first.info.run_id}"
    assert f"http://127.0.0.1:5000/{page}" in trained.out
    assert re.fullmatch(r"train lenet_flowers \d\d:\d\d", first.info.run_name)
    assert first.data.tags["job"] == "train"
    assert first.data.tags["commit"] == metadata.git_commit == git_commit()
    assert first.data.tags["data_hash"] == metadata.data_hash
    assert re.fullmatch("[0-9a-f]{64}", metadata.data_hash)
    assert first.data.params["model/image_size"] == "32" and first.data.params["seed"] == "0"
    shown = {"train/loss_epoch", "val/accuracy", "val/f1", "val/loss", "lr"}
    assert first.data.metrics.keys() >= shown

    resumed = succeeds("train", *settings, "resume=true", "trainer.max_epochs=2")
    assert "MLflow failed" not in resumed.out + resumed.err
    second = record(database, tmp_path)
    assert second.info.run_id == first.info.run_id, "a resumed run goes on in its own record"
    assert second.info.status == "FINISHED"
    client = mlflow.MlflowClient(database)
    epochs = client.get_metric_history(second.info.run_id, "val/accuracy")
    assert len(epochs) == 2
    best = second.data.metrics["best val/accuracy"]
    assert best == max(epoch.value for epoch in epochs), "by which runs can be compared"
    assert "test/accuracy" in second.data.metrics
    kept = {file.path for file in client.list_artifacts(second.info.run_id)}
    drawn = {"data.png", "curves.png", "confusion_matrix.png", "worst_mistakes.png"}
    assert kept == {*drawn, "predictions.csv", "classes.csv", "metrics.json"}


def test_record_of_a_prediction(run, drawn, flowers, untrained, tmp_path, database, monkeypatch):
    """With a picture that cannot be read: the others are predicted, and the run has failed."""
    (flowers / "aster" / "damaged.jpg").write_bytes(b"no picture")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    done = run("infer", *SETTINGS, "input=data/flowers/aster")
    assert done.status == 1 and "damaged.jpg" in done.err
    kept = record(database, tmp_path / "runs" / "infer", "nano-cv infer")
    assert kept.info.status == "FAILED" and kept.data.tags["job"] == "infer"
    files = mlflow.MlflowClient(database).list_artifacts(kept.info.run_id)
    assert {file.path for file in files} == {"predictions.csv", "predictions.png"}


def test_best_version_is_the_champion(tmp_path, database, monkeypatch):
    """By its validation metric; of equals the newest, and never one whose metric is not known."""
    monkeypatch.chdir(tmp_path)
    graph = "same (float[N,3] IMAGES) => (float[N,3] ANSWER) { ANSWER = Identity (IMAGES) }"
    onnx.save(model_of(graph), tmp_path / "model.onnx")
    champions = []
    with tracking.MLflow(database, "champions", "export", {"folder": str(tmp_path)}) as logger:
        for score in (0.8, 0.7, float("nan"), 0.8, 0.9):
            metadata = replace(CONTRACT, model="same", metrics={"val/accuracy": score})
            logger.log_model(tmp_path / "model.onnx", metadata, "# Card", "max")
            version = logger.client.get_model_version_by_alias("same_flowers", "champion")
            champions.append(version.version)
    assert version.description == "# Card"
    assert list(map(int, champions)) == [1, 1, 1, 4, 5]


def test_server_that_dies(succeeds, flowers, tmp_path, database, monkeypatch):
    calls: list[object] = []
    original = mlflow.MlflowClient.log_batch

    def dies(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) > 1:
            raise mlflow.MlflowException("Connection refused\nand a long story")
        return original(*arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", dies)
    done = succeeds("train", *SETTINGS, f"logger.uri='{database}'", "trainer.max_epochs=2")
    said = done.out + done.err
    assert said.count("MLflow failed; going on without tracking: Connection refused\n") == 1
    assert "a long story" not in said and "mlflow ui" not in said
    assert weights.read_metadata(FILE).classes == ["aster", "basil", "clover"]


def test_server_that_comes_back(tmp_path, database, monkeypatch, caplog):
    """What was logged in between arrives with its own time and step, and nothing waits for it."""
    away, asked, clock = [], [], [1000.0]

    def breaking(original):
        def call(*given: object, **options: object) -> object:
            asked.append(original)
            if away:
                raise mlflow.MlflowException("Connection refused")
            return original(*given, **options)

        return call

    for name in ("log_batch", "get_run"):
        monkeypatch.setattr(mlflow.MlflowClient, name, breaking(getattr(mlflow.MlflowClient, name)))
    caplog.set_level("INFO", logger="nano_cv")
    with tracking.MLflow(database, "nano-cv", "a", {"folder": str(tmp_path)}) as logger:
        monkeypatch.setattr(tracking.time, "monotonic", lambda: clock[0])
        logger.log_metrics({"loss": 0.5}, 1)
        away.append("the server")
        for step in range(2, 1502):
            logger.log_metrics({"loss": 0.1}, step)
        clock[0] += 61
        logger.log_metrics({"loss": 0.1}, 1502)
        away.clear()
        logger.log_metrics({"loss": 0.1}, 1503)
        assert len(asked) == 3, "not asked for again within a minute"
        clock[0] += 61
        before = int(time.time() * 1000)
        logger.log_metrics({"loss": 0.1}, 1504)
    kept = mlflow.MlflowClient(database).get_metric_history(logger.run_id, "loss")
    assert [metric.step for metric in kept] == list(range(1, 1505))
    assert kept[1].timestamp <= before
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and said[0].startswith("MLflow failed; going on without tracking")
    assert said[1] == "MLflow is back: 1503 entries that waited were delivered"


def test_a_run_that_was_killed_is_in_the_record(run, flowers, tmp_path, database, interrupted):
    with interrupted(0):
        assert run("train", *SETTINGS, f"logger.uri='{database}'").status == 130
    assert record(database, tmp_path).info.status == "KILLED"


def test_tracking_that_cannot_be_used(fails, flowers, tmp_path, monkeypatch):
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "notes.db").write_bytes(b"Dear diary, " * 99)
    for uri, answer in {
        f"http://127.0.0.1:{triton.free_ports(1)[0]}": "the tracking server does not answer ([Er",
        "http://": "the tracking server does not answer (no host given)",
        "sqlite:///notes.db": "cannot be used for tracking (",
        "sqlite:////dev/null/mlflow.db": "cannot be used for tracking (",
        "postgresql://me@127.0.0.1/runs": "cannot be used for tracking (No module named 'psy",
        "carrier://pigeon": "cannot be used for tracking (Model registry functionality is",
    }.items():
        said = fails("train", *SETTINGS, f"logger.uri={uri}")
        assert said.startswith(f"error: logger.uri={uri}: {answer}")
        assert said.endswith("or add logger=csv or logger=none\n") and said.count("\n") == 1
    assert not FILE.exists()


NAMES = ["C", "C++", "..", "a/../b", "/a", "", " a ", "ü", "_x2B_", "a\n", "日本", "z" * 300]


def test_every_class_has_a_key_of_its_own(database):
    """One that MLflow takes, and of which the name can be read back."""
    client = mlflow.MlflowClient(database)
    run = client.create_run("0")
    keys = {name: key(f"test/recall/{name}") for name in NAMES}
    assert len(set(keys.values())) == len(keys)
    metrics = [mlflow.entities.Metric(each, 1.0, 0, 0) for each in keys.values()]
    client.log_batch(run.info.run_id, metrics=metrics)
    assert client.get_run(run.info.run_id).data.metrics.keys() == set(keys.values())
    for name in NAMES:
        if len(name) < 200:
            back = re.sub("_x([0-9A-F]+)_", lambda found: chr(int(found[1], 16)), keys[name])
            assert back == f"test/recall/{name}"
    assert key("train/loss_epoch") == "train/loss_epoch"
