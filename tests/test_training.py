"""A whole training: what it leaves, that it can be resumed, that it repeats itself."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY, python

from nano_cv import weights


def last(folder: Path) -> dict:
    """The last checkpoint of the only run below `folder`."""
    (path,) = folder.glob("runs/train/lenet_flowers/*/checkpoints/last.ckpt")
    return torch.load(path, weights_only=True)


def test_train_then_infer(run, flowers, tmp_path):
    trained = run("train", *TINY, "trainer.max_epochs=6", "model.task.ema_decay=0.5")
    assert trained.status == 0, trained.err
    (folder,) = (tmp_path / "runs/train/lenet_flowers").iterdir()
    for name in ("confusion_matrix.png", "worst_mistakes.png", "predictions.csv", "train.log"):
        assert (folder / name).stat().st_size > 0
    contract = weights.read_contract(tmp_path / "weights/lenet_flowers.safetensors")
    assert contract.classes == ["aster", "basil", "clover"]
    assert (contract.task, contract.name) == ("classification", "lenet_flowers")

    inferred = run("infer", *TINY, "gradcam=true")
    assert inferred.status == 0, inferred.err
    (folder,) = (tmp_path / "runs/infer/lenet_flowers").iterdir()
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert list(rows[0]) == ["file", "label", "target", "aster", "basil", "clover"]
    right = sum(row["label"] == row["target"] for row in rows) / len(rows)
    assert right >= 0.75, "a colour a species is not hard to learn"
    assert f"{right:.4f}" in inferred.out and f"{right:.4f}" in trained.out
    for row in rows:
        assert sum(float(row[name]) for name in contract.classes) == pytest.approx(1, abs=1e-5)
    assert (folder / "gradcam.png").exists()


def test_resumed_equals_unbroken(run, flowers, tmp_path):
    """Interrupted after 2 of 4 epochs and resumed: the same learning rates, averages, weights."""
    settings = [*TINY, "trainer.max_epochs=4", "model.task.network.dropout=0.3"]
    assert run("train", *settings).status == 0
    whole = last(tmp_path)
    shutil.rmtree(tmp_path / "runs")
    weights_file = tmp_path / "weights/lenet_flowers.safetensors"
    unbroken = weights_file.read_bytes()
    weights_file.unlink()

    interrupt = Path(__file__).with_name("interrupt.py")
    broken = python(str(interrupt), "2", *settings, cwd=tmp_path)
    assert broken.returncode == 130, broken.stderr
    assert "resume=true" in broken.stderr and "Traceback" not in broken.stderr
    assert not weights_file.exists()
    assert last(tmp_path)["epoch"] == 1

    assert run("train", *settings, "resume=true").status == 0
    resumed = last(tmp_path)
    assert weights_file.read_bytes() == unbroken
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert all(torch.equal(whole[part][name], resumed[part][name]) for name in whole[part])
    assert whole["lr_schedulers"] == resumed["lr_schedulers"]
    assert whole["global_step"] == resumed["global_step"]


def test_same_seed_same_losses(run, flowers, tmp_path):
    losses = []
    for _ in range(2):
        assert (
            run(
                "train", *TINY, "logger=csv", "trainer.max_epochs=2", "trainer.log_every_n_steps=1"
            ).status
            == 0
        )
    for folder in sorted((tmp_path / "runs/train/lenet_flowers").iterdir()):
        with (folder / "csv/version_0/metrics.csv").open() as file:
            losses.append([row["train/loss_step"] for row in csv.DictReader(file)])
    assert len(losses) == 2 and losses[0] == losses[1] and any(losses[0])
