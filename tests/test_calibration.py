"""The operating point of a model: honest probabilities, thresholds of boxes, and who uses them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CONTRACT, TINY, TINY_OF
from test_metrics import NAMES, SIDE, metadata, random_inputs, scene, seeds
from torchmetrics.classification import MulticlassCalibrationError

from nano_cv.data.pictures import COUNTED, Boxes, Pictures
from nano_cv.evaluation.reports.detection import DetectionReport
from nano_cv.metadata import Metadata, read_metadata
from nano_cv.tasks.classification import Classification
from nano_cv.tasks.metrics import (
    Scored,
    best_threshold,
    count_by_class,
    expected_calibration_error,
    match_boxes,
    operating_figures,
)
from nano_cv.training.calibration import fit_temperature, softmax


def test_temperature_is_the_one_by_which_logits_were_made_too_sure():
    """Labels are drawn from the probabilities, so those are right at a temperature of 1."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (4_000, 5))
    labels = np.array([random.choice(5, p=row) for row in softmax(logits)])
    for factor in (0.5, 1, 3):
        assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.05)
    # The same minimum by torch's own optimiser.
    sharpness = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([sharpness], max_iter=50, line_search_fn="strong_wolfe")
    given = torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(3 * given[0] * sharpness, given[1])
        value.backward()
        return value

    optimizer.step(loss)
    assert fit_temperature(3 * logits, labels) == pytest.approx(1 / sharpness.item(), rel=1e-3)
    # Nothing is learnt from pictures that are all classified rightly.
    assert fit_temperature(logits, logits.argmax(axis=1)) == 1


@random_inputs
@seeds
def test_calibration_error_is_that_of_torchmetrics(seed):
    random = np.random.default_rng(seed)
    probabilities = softmax(random.normal(0, 3, (50, 5))).astype(np.float32)
    labels = random.integers(0, 5, 50)
    theirs = MulticlassCalibrationError(5, n_bins=15)
    expected = float(theirs(torch.tensor(probabilities), torch.tensor(labels)))
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-5)


def one_class(scores: list[float], right: list[bool], objects: int) -> float:
    """The best threshold of a class for boxes by falling score; 0.3 where there is none."""
    each = np.array([[number * 10, 0, number * 10 + 5, 5] for number in range(20)], np.float32)
    places = [sum(right[:number]) + 10 * (not one) for number, one in enumerate(right)]
    zeros = np.zeros(20, np.int64)
    truth = Boxes(each[:objects], zeros[:objects], np.full(objects, COUNTED, np.uint8))
    found = Scored(each[places].reshape(-1, 4), zeros[: len(right)], np.float32(scores))
    matches = match_boxes([truth], [found], 1).matches
    return best_threshold(count_by_class([truth], [found], matches, 1)[0], 0.3)


@pytest.mark.parametrize(
    ("scores", "right", "objects", "threshold"),
    [
        ([0.9, 0.8, 0.2, 0.1], [True, True, False, False], 2, 0.5),
        ([0.9, 0.8, 0.6, 0.4], [False, True, True, False], 2, 0.5),
        ([0.3, 0.3, 0.1], [True, False, False], 1, 0.2),  # boxes of one score go together
        ([0.5], [True], 3, 0.25),
        ([0.5], [False], 1, 0.3),
        ([], [], 1, 0.3),
        ([0.5], [False], 0, 0.3),
    ],
)
def test_threshold_of_the_best_f1(scores, right, objects, threshold):
    assert one_class(scores, right, objects) == pytest.approx(threshold)


@random_inputs
@seeds
def test_no_other_threshold_has_a_better_f1(seed):
    """And the figures are those of counting boxes of the report that are right, false or missed."""
    random = np.random.default_rng(seed)
    truths, found = zip(*(scene(random, ignored=0.3) for _ in range(5)), strict=True)
    matches = match_boxes(truths, found, len(NAMES)).matches
    by_class = count_by_class(truths, found, matches, len(NAMES))
    best = [best_threshold(one, 0.3) for one in by_class]
    figures = operating_figures(by_class, best, NAMES)
    for least in np.linspace(0.05, 0.95, 19):
        others = operating_figures(by_class, [float(least)] * len(NAMES), NAMES)
        assert all(others[name] <= figures[name] for name in figures if name.startswith("F1/"))
    pictures = Pictures("", [None] * 5, truths, NAMES)
    report = DetectionReport(replace(metadata("detection"), thresholds=best), {}, pictures)
    report.sizes, report.found = [(SIDE, SIDE)] * 5, found
    assert report.metrics()["mF1"] == pytest.approx(figures["mF1"])
    for label, name in enumerate(NAMES):
        if f"recall/{name}" in figures:
            missed = sum(
                int(one.missed[truth.labels == label].sum())
                for one, truth in zip(report.verdicts, truths, strict=True)
            )
            objects = sum(
                int(((one.labels == label) & (one.ignored == COUNTED)).sum()) for one in truths
            )
            assert figures[f"recall/{name}"] == pytest.approx(1 - missed / objects)


def test_metadata_of_older_files_and_of_damaged_ones():
    content = json.loads(CONTRACT.to_json())
    older = {key: content[key] for key in content if key not in ("thresholds", "temperature")}
    assert Metadata.from_json(json.dumps(older)) == CONTRACT
    assert CONTRACT.confidences == [0.3] * 3 and CONTRACT.temperature == 1
    assert CONTRACT.at_confidence(0.4).confidences == [0.4] * 3
    fitted = replace(CONTRACT, thresholds=[0.1, 0.25, 1], temperature=1.5)
    assert Metadata.from_json(fitted.to_json()) == fitted
    for wrong in (
        *({"thresholds": [0.1]}, {"thresholds": [0.1, 0.2, 1.1]}, {"thresholds": [0, 0, None]}),
        *({"thresholds": 0.3}, {"temperature": 0}, {"temperature": "1"}),
        *({"temperature": float("nan")}, {"temperature": float("inf")}),
    ):
        with pytest.raises((ValueError, TypeError)):
            Metadata.from_json(json.dumps(content | wrong))


def test_temperature_changes_probabilities_and_no_label():
    def network(**_: object) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))

    torch.manual_seed(0)
    task = Classification(metadata=CONTRACT, network=network).eval()
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    before = task.predict(pixels)["CLASS_PROBS"]
    task.metadata = replace(CONTRACT, temperature=2.0)
    after = task.predict(pixels)["CLASS_PROBS"]
    assert torch.allclose(after, torch.softmax(before.log() / 2, dim=1), atol=1e-6)


def test_training_fits_and_says_it(run, flowers, tmp_path):
    """But not where only a part of the pictures is seen."""
    done = run("train", *TINY)
    assert done.status == 0, done.err
    assert "calibration error of 12 validation pictures" in done.out + done.err
    assert {"val/ece", "val/ece_before", "test/ece"} <= set(done.out.split())
    assert read_metadata(tmp_path / "weights/lenet_flowers.safetensors").temperature != 1
    done = run("train", *TINY, "trainer.limit_val_batches=1", "hydra.run.dir=part")
    assert done.status == 0 and "val/ece" not in done.out
    assert read_metadata(tmp_path / "part/model.safetensors").temperature == 1


@pytest.mark.parametrize("confidence", ["0.4", "null"])
def test_confidence_is_for_detectors(run, flowers, confidence):
    assert run("train", *TINY, "test=false").status == 0
    done = run("infer", *TINY, f"confidence={confidence}")
    assert done.status == (confidence != "null")
    if done.status:
        assert done.err == (
            "error: confidence=0.4: is for detection, and model=lenet does classification\n"
        )


@pytest.mark.parametrize("confidence", ["1.5", "-1", "high"])
def test_confidence_has_a_range(run, flowers, confidence):
    done = run("infer", *TINY_OF["centernet"], f"confidence={confidence}")
    assert done.status == 1 and done.err.startswith(f"error: confidence={confidence}: ")
    assert "needed" in done.err and done.err.count("\n") == 1
