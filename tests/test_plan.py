"""How long a training is, from which classifier it starts, and which boxes are the same object."""

import pytest
import torch
from conftest import TINY, compose, make_flowers
from torchvision.ops import batched_nms

from nano_cv.tasks.detection import suppress
from nano_cv.training.plan import duration, make_plan


def plan(pictures: int, *settings: str):
    least = ("trainer.min_epochs=20", "trainer.min_steps=600")
    return make_plan(compose("train", *least, *settings), pictures)


@pytest.mark.parametrize(
    ("pictures", "batch", "repeats", "steps", "epochs"),
    [
        (560, 16, 1, 35, 20),  # enough steps in 20 epochs
        (440, 16, 1, 28, 22),  # a few are lacking: more epochs
        (240, 16, 2, 30, 20),  # half of them are lacking: twice per epoch
        (31, 4, 3, 23, 27),  # batches of 16 would leave half of the pictures out
        (5, 4, 24, 30, 20),
    ],
)
def test_small_sets_are_seen_several_times(pictures, batch, repeats, steps, epochs):
    found = plan(pictures)
    assert found[:5] == (pictures, batch, repeats, epochs, steps)
    assert found.epochs * found.steps >= 600


def test_max_epochs_rules():
    found = plan(240, "trainer.max_epochs=3")
    assert (found.epochs, found.repeats, found.steps) == (3, 1, 15)
    assert plan(240, "trainer.max_epochs=3", "trainer.limit_train_batches=2").steps == 2


@pytest.mark.parametrize(
    ("seconds", "said"), [(42.4, "42 s"), (420, "7 min"), (7500, "2 h 05 min")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_every_picture_is_seen_as_often_as_planned(run, tmp_path):
    """24 training pictures, nothing said of their number: as many steps as the model needs."""
    make_flowers(tmp_path / "data" / "flowers")
    settings = [one for one in TINY if "max_epochs" not in one]
    settings += ["trainer.min_epochs=2", "trainer.min_steps=12", "test=false"]
    assert run("train", *settings).status == 0
    (file,) = tmp_path.glob("runs/train/*/*/checkpoints/last.ckpt")
    saved = torch.load(file, weights_only=True)
    assert (saved["epoch"], saved["global_step"]) == (1, 12)


def test_a_budget_in_minutes_ends_in_time(run, tmp_path):
    make_flowers(tmp_path / "data" / "flowers")
    settings = [one for one in TINY if "max_epochs" not in one]
    settings += ["trainer.min_epochs=5000", "trainer.min_steps=15000", "trainer.minutes=0.03"]
    assert run("train", *settings, "test=false").status == 0
    (file,) = tmp_path.glob("runs/train/*/*/checkpoints/last.ckpt")
    assert torch.load(file, weights_only=True)["epoch"] < 1000


def test_a_resumed_run_keeps_the_epochs_of_its_budget(run, interrupted, tmp_path):
    make_flowers(tmp_path / "data" / "flowers")
    settings = [one for one in TINY if "max_epochs" not in one]
    settings += ["trainer.min_epochs=5", "trainer.min_steps=15", "trainer.minutes=0.1"]
    settings += ["test=false"]
    with interrupted(6) as planned:
        assert run("train", *settings).status == 130
    done = run("train", *settings, "resume=true")
    assert done.status == 0, done.err
    (file,) = tmp_path.glob("runs/train/*/*/checkpoints/last.ckpt")
    assert torch.load(file, weights_only=True)["epoch"] + 1 == planned[0] > 6


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.7])
def test_suppression_is_the_greedy_one(overlap):
    torch.manual_seed(0)
    for _ in range(20):
        corners = torch.rand(100, 2) * 80
        boxes = torch.cat([corners, corners + torch.rand(100, 2) * 60 + 5], dim=1)
        scores, labels = torch.rand(100).sort(descending=True)[0], torch.randint(0, 2, (100,))
        kept = torch.zeros(100)
        kept[batched_nms(boxes, scores, labels, overlap)] = 1
        assert torch.equal(suppress(boxes[None], labels[None], overlap)[0], kept)


def test_fine_tuning_is_never_worse_than_the_frozen_network(run, tmp_path, monkeypatch):
    """A learning rate that destroys all: what is kept is the frozen network and its classifier."""
    make_flowers(tmp_path / "data" / "flowers")
    settings = [one for one in TINY if "channels" not in one]
    settings += ["model=timm", "model.task.network.name=test_resnet", "test=false"]
    assert run("train", *settings, "model.task.network.dropout=0").status == 0
    weights = tmp_path / "weights/test_resnet_flowers.safetensors"
    weights.rename(tmp_path / "start.safetensors")
    settings += ["model.pretrained=start.safetensors", "model.task.optimizer.lr=1"]
    done = run("train", *settings, "model.task.ema_decay=null")
    assert done.status == 0, done.err

    assert "frozen network and logistic regression: val/accuracy" in done.out
    assert "no epoch was better than the frozen network, which is kept" in done.out
