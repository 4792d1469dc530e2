"""The loss curve of a short training, number by number: what changes it, changes every result."""

import csv

import pytest
from conftest import TINY

# A change that is meant to alter training (initialisation, order, augmentation, schedule, loss)
# replaces these; any other change must leave them. The tolerance covers processors, not changes.
GOLDEN = [0.87844, 0.85375, 0.74871, 0.65826, 0.50697, 0.44850, 0.36959, 0.31669, 0.30553]


def test_loss_curve(run, flowers, tmp_path):
    settings = [*TINY, "logger=csv", "trainer.max_epochs=3", "trainer.log_every_n_steps=1"]
    assert run("train", *settings, "seed=1").status == 0
    (metrics,) = tmp_path.glob("runs/train/lenet_flowers/*/csv/version_0/metrics.csv")
    with metrics.open() as file:
        steps = [row["train/loss_step"] for row in csv.DictReader(file)]
    losses = [float(step) for step in steps if step]
    assert losses == pytest.approx(GOLDEN, rel=1e-3)
