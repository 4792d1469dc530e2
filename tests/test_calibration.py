"""The operating point: thresholds of boxes, honest probabilities, label sets, foreign pictures."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONTRACT, TINY, read_csv
from test_metrics import NAMES, SIDE, metadata, random_inputs, scene, seeds
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from nano_cv.data.pictures import Pictures
from nano_cv.data.targets import COUNTED, Boxes
from nano_cv.evaluation import reports
from nano_cv.evaluation.answers import describe
from nano_cv.evaluation.card import make_card
from nano_cv.evaluation.exported import Onnx
from nano_cv.evaluation.reports.detection import DetectionReport
from nano_cv.export import graph
from nano_cv.metadata import Metadata, read_metadata
from nano_cv.tasks import weights
from nano_cv.tasks.classification import Classification
from nano_cv.tasks.score_metrics import (
    Scored,
    at_thresholds,
    best_threshold,
    count_by_class,
    count_tags,
    match_boxes,
    operating_figures,
    steady_threshold,
)
from nano_cv.training.calibration import fit_familiarity, fit_label_sets, fit_temperature, softmax


def test_temperature_is_the_one_by_which_logits_were_made_too_sure():
    """Labels are drawn from the probabilities, so those are right at a temperature of 1."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (4_000, 5))
    labels = np.array([random.choice(5, p=row) for row in softmax(logits)])
    for factor in (0.5, 1, 3):
        assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.05)
    # Nothing is learnt from pictures that are all classified rightly.
    assert fit_temperature(logits, logits.argmax(axis=1)) == 1
    # Few pictures move it less: here the likelihood alone would have 9 / ln 3, which is 8.2.
    few = np.array([[9.0, 0], [9, 0], [9, 0], [9, 0]])
    assert 3.9 < fit_temperature(few, np.array([0, 0, 0, 1])) < 4.1


@pytest.mark.parametrize(
    ("scores", "right", "objects", "threshold"),
    [
        ([0.9, 0.8, 0.2, 0.1], [True, True, False, False], 2, 0.5),
        ([0.9, 0.8, 0.6, 0.4], [False, True, True, False], 2, 0.5),
        ([0.3, 0.3, 0.1], [True, False, False], 1, 0.2),  # boxes of one score go together
        ([0.5], [True], 3, 0.25),
        ([0.5], [False], 1, 0.3),
        ([], [], 1, 0.3),
        ([0.4, 0.0], [False, True], 1, 0.3),  # a box of score 0 passes no threshold
        ([0.5], [False], 0, 0.3),
    ],
)
def test_threshold_of_the_best_f1(scores, right, objects, threshold):
    """Of a class for boxes by falling score; 0.3 where there is none."""
    each = np.array([[number * 10, 0, number * 10 + 5, 5] for number in range(20)], np.float32)
    places = [sum(right[:number]) + 10 * (not one) for number, one in enumerate(right)]
    zeros = np.zeros(20, np.int64)
    truth = Boxes(each[:objects], zeros[:objects], np.full(objects, COUNTED, np.uint8))
    found = Scored(each[places].reshape(-1, 4), zeros[: len(right)], np.float32(scores))
    counts = count_by_class([truth], [found], match_boxes([truth], [found], 1).matches, 1)[0]
    assert best_threshold(counts, 0.3) == pytest.approx(threshold)


def test_thresholds_of_labels_hold_on_other_pictures():
    """Better than the best of few pictures, which fits these; always the same; and in between."""
    random, gains = np.random.default_rng(0), []
    for _ in range(60):
        truth = random.random(400) < 0.3
        shares = 1 / (1 + np.exp(-random.normal(np.where(truth, 0.8, -0.8), 1)))
        few, many = slice(0, 40), slice(40, None)
        (counts,) = count_tags(truth[few, None], shares[few, None])
        (others,) = count_tags(truth[many, None], shares[many, None])
        least = [best_threshold(counts, 0.5), steady_threshold(counts, 0.5)]
        assert steady_threshold(counts, 0.5) == least[1] and 0 < least[1] < counts.scores[0]
        best, steady = (at_thresholds([others], [one])["F1"][0] for one in least)
        gains.append(steady - best)
    assert np.mean(gains) > 0.01
    (never,) = count_tags(np.zeros((9, 1), bool), np.full((9, 1), 0.2))
    assert steady_threshold(never, 0.5) == 0.5


def test_weights_are_those_of_a_pictures_own_class():
    """Also of the smoothed part: a rare class must not be likely for a common picture."""
    task = Classification(metadata=CONTRACT, network=lambda **_: nn.Identity())
    weights, random = torch.tensor([0.5, 1.0, 8.0]), torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 3, generator=random), torch.tensor([0, 0, 0, 1, 1, 2])
    targets = one_hot(labels, 3) * 0.9 + 0.1 / 3
    losses = -(targets * logits.log_softmax(dim=1)).sum(dim=1)
    expected = (losses * weights[labels]).sum() / weights[labels].sum()
    for given in (labels, one_hot(labels, 3).float()):
        assert task.loss(logits, given, weights, 0.1) == pytest.approx(expected.item(), rel=1e-6)
    plain = cross_entropy(logits, labels, weights)
    assert task.loss(logits, labels, weights) == pytest.approx(plain.item(), rel=1e-6)


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
            pairs = zip(report.verdicts, truths, strict=True)
            missed = sum(int(lost[truth.labels == label].sum()) for (_, lost), truth in pairs)
            objects = sum(int((one.counted == label).sum()) for one in truths)
            assert figures[f"recall/{name}"] == pytest.approx(1 - missed / objects)


def test_metadata_of_older_files_and_of_damaged_ones():
    content = json.loads(CONTRACT.to_json())
    older = {key: content[key] for key in content if key not in ("thresholds", "temperature")}
    assert Metadata.from_json(json.dumps(older)) == CONTRACT
    assert CONTRACT.confidences == [0.3] * 3 and CONTRACT.temperature == 1
    assert replace(CONTRACT, task="detection").at_confidence(0.4).confidences == [0.4] * 3
    fitted = replace(CONTRACT, thresholds=[0.1, 0.25, 1], temperature=1.5)
    assert Metadata.from_json(fitted.to_json()) == fitted
    for wrong in (
        *({"thresholds": [0.1]}, {"thresholds": [0.1, 0.2, 1.1]}, {"thresholds": [0, 0, None]}),
        *({"thresholds": 0.3}, {"temperature": 0}, {"temperature": "1"}),
        *({"temperature": float("nan")}, {"temperature": float("inf")}),
    ):
        with pytest.raises((ValueError, TypeError)):
            Metadata.from_json(json.dumps(content | wrong))


def plain(num_classes: int, image_size: int) -> nn.Module:
    """A network that shows no features."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))


def test_temperature_changes_probabilities_and_no_label():
    torch.manual_seed(0)
    task = Classification(metadata=CONTRACT, network=plain).eval()
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    before = task.predict(pixels)["CLASS_PROBS"]
    task.metadata = replace(CONTRACT, temperature=2.0)
    after = task.predict(pixels)["CLASS_PROBS"]
    assert torch.allclose(after, torch.softmax(before.log() / 2, dim=1), atol=1e-6)


def test_training_fits_and_says_it(succeeds, flowers, tmp_path):
    done = succeeds("train", *TINY)
    for said in (
        "calibration error of 12 validation pictures",
        "coverage=0.95 takes 19 validation pictures, and there are 12",
        "with 12 validation pictures about one familiar one in 13 counts as foreign",
    ):
        assert said in done.out + done.err
    assert {"val/ece", "val/ece_before", "test/ece"} <= set(done.out.split())
    assert read_metadata(tmp_path / "weights/lenet_flowers.safetensors").temperature != 1
    done = succeeds("train", *TINY, "trainer.limit_val_batches=1", "hydra.run.dir=part")
    assert "val/ece" not in done.out
    assert read_metadata(tmp_path / "part/model.safetensors").temperature == 1


def test_confidence_is_not_for_one_label(succeeds, fails, flowers, untrained):
    succeeds("infer", *TINY, "confidence=null")
    assert fails("infer", *TINY, "confidence=0.4") == (
        "error: confidence=0.4: is for boxes and for several labels per picture, and "
        "lenet_flowers has neither\n"
    )


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_label_sets_hold_the_true_class_as_often_as_asked(coverage):
    """On the mean over many validation splits, and whether or not the probabilities are honest."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (40_000, 5))
    labels = np.array([random.choice(5, p=row) for row in softmax(logits)])
    shares = softmax(3 * logits)
    of_labels = shares[np.arange(len(labels)), labels]
    reached = []
    for part in np.split(of_labels[:20_000], 200):
        set_from = fit_label_sets(part, coverage)
        reached.append((of_labels[20_000:] >= set_from).mean())
    # Of 100 pictures ceil(101 c) / 101 is promised on average.
    assert np.mean(reached) == pytest.approx(np.ceil(101 * coverage) / 101, abs=0.005)
    assert fit_label_sets(np.full(18, 0.5), 0.95) == 0, "too few promise nothing"
    assert fit_label_sets(np.full(19, 0.5), 0.95) == pytest.approx(0.5, abs=2e-4)


class Embedding(nn.Module):
    """A network that shows its features: the mean colours of eight parts of the picture."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((2, 4))
        self.classifier = nn.Linear(24, num_classes)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool(images).flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.embed(images))


def fitted(network: Any) -> tuple[Classification, torch.Tensor, torch.Tensor]:
    """A classifier that was calibrated to reddish pictures; such ones, and bluish ones."""
    torch.manual_seed(0)
    metadata = replace(CONTRACT, coverage=0.9, set_from=0.3, temperature=1.5)
    task = Classification(metadata=metadata, network=network).eval()
    kinds = []
    for colour in ((230, 40, 30), (20, 40, 240)):
        noise = torch.randint(-20, 20, (80, 3, 32, 32))
        kinds.append((torch.tensor(colour).view(1, 3, 1, 1) + noise).clamp(0, 255).byte())
    with torch.no_grad():
        features, logits = task.features_and_logits(kinds[0])
        task.familiarity = fit_familiarity(features[:40], features[40:], logits[40:])
    return task, *kinds


def test_foreign_pictures_are_those_unlike_the_training(tmp_path):
    """19 of 20 validation pictures pass, and the weights file holds all of it."""
    task, known, unknown = fitted(Embedding)
    with torch.no_grad():
        assert (task.predict(known[40:])["FOREIGN"] > 0).sum() == 1  # of 40, 39 of which may pass
        assert (task.predict(unknown)["FOREIGN"] > 0).all()
        expected = task.predict(known)
    weights.save(task, tmp_path / "model.safetensors")
    file = tmp_path / "model.safetensors"
    other = Classification(metadata=read_metadata(file), network=Embedding).eval()
    weights.load(other, file)
    for name, one in other.predict(known).items():
        assert torch.equal(one, expected[name])
    # A fine-tuning from these weights takes the network alone.
    assert set(weights.network_tensors(file)) == set(task.network.state_dict())


@pytest.mark.parametrize("network", [Embedding, plain])
def test_exported_as_it_answers(tmp_path, network):
    task, known, unknown = fitted(network)
    pixels = torch.cat([known[:3], unknown[:2]])
    graph.export(task, tmp_path / "model.onnx")
    answer = Onnx(tmp_path / "model.onnx").predict({"IMAGES": pixels.numpy()})
    expected = {name: one.detach().numpy() for name, one in task.predict(pixels).items()}
    assert list(answer) == ["CLASS_PROBS", "LABEL_SET", "FOREIGN"]
    assert answer["LABEL_SET"].dtype == bool and answer["FOREIGN"].shape == (5, 1)
    report = reports.find("classification")
    for name, apart in report.compare(expected, answer).items():
        assert apart.max() <= report.limits[name]
    flipped = answer | {"LABEL_SET": ~answer["LABEL_SET"], "FOREIGN": answer["FOREIGN"] + 1}
    apart = report.compare(expected, flipped)
    assert (apart["label_set"] == 1).all() and apart["foreign"].min() > 0.9
    task.familiarity, task.metadata = None, CONTRACT
    graph.export(task, tmp_path / "older.onnx")
    older = Onnx(tmp_path / "older.onnx").predict({"IMAGES": pixels.numpy()})
    assert list(older) == ["CLASS_PROBS"]


ANSWER = {
    "CLASS_PROBS": np.float32([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]]),
    "LABEL_SET": np.array([[False, True, True], [True, False, False]]),
    "FOREIGN": np.float32([[-0.5], [1.5]]),
}


def test_report_and_json_of_label_sets_and_foreign_pictures(tmp_path):
    metadata = replace(CONTRACT, coverage=0.9, set_from=0.25)
    files = [tmp_path / "one.png", tmp_path / "two.png"]
    pictures = Pictures(tmp_path, files, [2, 1], metadata.classes)
    report = reports.find("classification")(metadata, ANSWER, pictures)
    rows = report.rows()
    assert [row["label_set"] for row in rows] == ["basil; clover", "aster"]
    assert [row["foreign"] for row in rows] == ["no", "yes"]
    figures = report.metrics()
    assert [figures[name] for name in ("coverage", "set_size", "familiar")] == [0.5, 1.5, 0.5]
    assert report.remarks() == [
        "1 of 2 pictures are none of these: unlike the training pictures, though they have these "
        "labels",
        "no picture is recognised of basil, clover",
    ]
    alone = Pictures(tmp_path, files[:1])
    first = {name: one[:1] for name, one in ANSWER.items()}
    remarks = reports.find("classification")(metadata, first, alone).remarks()
    assert remarks == ["label set for a coverage of 90%: basil or clover"]
    assert "called foreign" in make_card(metadata, {})
    assert "Every picture gets one" in make_card(CONTRACT, {})
    one, other = ({name: row[index] for name, row in ANSWER.items()} for index in range(2))
    expected = {"label": "basil", "label_set": ["basil", "clover"], "foreign": False}
    assert describe(metadata, one, (0, 0), 1) == expected | {"probabilities": {"basil": 0.5}}
    told = describe(metadata, other, (0, 0), 1)
    assert told["foreign"] is True and told["label_set"] == ["aster"]


@pytest.mark.parametrize("confidence", ["1.5", "nan", "high"])
def test_confidence_of_the_client_has_a_range(run, confidence):
    done = run("nano_cv.serving.client", "photo.jpg", "--confidence", confidence)
    assert done.status == 2 and "--confidence" in done.err and confidence in done.err


def test_label_sets_from_training_to_onnx(succeeds, flowers, tmp_path):
    done = succeeds("train", *TINY, "coverage=0.8")
    assert "label sets for a coverage of 0.8" in done.out + done.err
    assert {"test/coverage", "test/set_size", "test/familiar"} <= set(done.out.split())
    succeeds("export_model", *TINY)
    tables = {}
    for asked in ("engine=torch", "engine=onnx", "tta=true"):
        succeeds("infer", *TINY, asked, f"hydra.run.dir={tmp_path / asked[-4:]}", "input=data")
        tables[asked] = read_csv(tmp_path / asked[-4:] / "predictions.csv")
    for row, other in zip(tables["engine=torch"], tables["engine=onnx"], strict=True):
        assert [row["label_set"], row["foreign"]] == [other["label_set"], other["foreign"]]
    for row in tables["tta=true"]:
        assert row["label"] in row["label_set"].split("; ") and row["foreign"] in ("yes", "no")
