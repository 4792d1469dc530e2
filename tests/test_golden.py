"""The loss curve of a short training, number by number: what changes it, changes every result."""

import csv

import pytest
from conftest import TINY_OF

# A change that is meant to alter training (initialisation, order, augmentation, schedule, loss)
# replaces these; any other change must leave them. The tolerance covers processors, not changes.
GOLDEN = {
    "lenet": [0.87844, 0.85375, 0.74871, 0.65826, 0.50697, 0.44850, 0.36959, 0.31669, 0.30553],
    "centernet": [7.31693, 7.52658, 7.51206, 7.29155, 7.05487, 6.78087, 6.87431, 6.88063, 6.41268],
    "unet": [2.00966, 1.97530, 1.94963, 1.95069, 1.95110, 1.93392, 1.91322, 1.93515, 1.91701],
    "flow": [4.49838, 1.70294, 2.15320, 7.29939, 2.84223, 4.38335, 7.00926, 3.81022, 2.02284],
}


@pytest.mark.parametrize("model", GOLDEN)
def test_loss_curve(run, flowers, tmp_path, model):
    settings = [*TINY_OF[model], "logger=csv", "trainer.max_epochs=3", "seed=1", "test=false"]
    assert run("train", *settings, "trainer.log_every_n_steps=1").status == 0
    (metrics,) = tmp_path.glob(f"runs/train/{model}_flowers/*/csv/version_0/metrics.csv")
    with metrics.open() as file:
        steps = [row["train/loss_step"] for row in csv.DictReader(file)]
    losses = [float(step) for step in steps if step]
    assert losses == pytest.approx(GOLDEN[model], rel=1e-3)
