"""The loss curve of a short training, number by number: what changes it, changes every result."""

import csv

import pytest
from conftest import TINY_OF

# A change that is meant to alter training (initialisation, order, augmentation, schedule, loss)
# replaces these; any other change must leave them. The tolerance covers processors, not changes.
GOLDEN = {
    "lenet": [0.87844, 0.85375, 0.74871, 0.65826, 0.50697, 0.44850, 0.36959, 0.31669, 0.30553],
    "centernet": [7.26059, 7.51250, 7.45196, 7.18085, 7.11748, 6.79432, 6.90582, 6.80697, 6.63363],
    "unet": [2.05485, 2.00823, 1.95367, 1.97608, 1.99475, 1.95964, 1.96088, 1.98609, 1.92451],
    "flow": [4.49838, 1.70294, 2.15320, 7.29939, 2.84223, 4.38335, 7.00926, 3.81022, 2.02284],
}


@pytest.mark.parametrize("model", GOLDEN)
def test_loss_curve(run, flowers, tmp_path, model):
    settings = [one for one in TINY_OF[model] if one != "logger=none"]
    settings += ["logger=csv", "trainer.max_epochs=3", "seed=1", "test=false"]
    assert run("train", *settings, "trainer.log_every_n_steps=1").status == 0
    (metrics,) = tmp_path.glob(f"runs/train/{model}_flowers/*/csv/version_0/metrics.csv")
    with metrics.open() as file:
        steps = [row["train/loss_step"] for row in csv.DictReader(file)]
    losses = [float(step) for step in steps if step]
    assert losses == pytest.approx(GOLDEN[model], rel=1e-3)
