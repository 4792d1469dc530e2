"""Every metric against the programs that define it: pycocotools, torchmetrics, scikit-learn."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONTRACT
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score, recall_score
from torchmetrics.classification import MulticlassCalibrationError

from nano_cv.data.images import IGNORE
from nano_cv.data.pictures import Pictures
from nano_cv.data.targets import COUNTED, CROWD, DIFFICULT, Boxes
from nano_cv.evaluation.reports.classification import ClassificationReport
from nano_cv.metadata import Metadata
from nano_cv.tasks.metrics import confusion, mask_confusion, segmentation_figures
from nano_cv.tasks.score_metrics import Scored, detection_figures, match_boxes

SIDE = 64
NAMES = list("abcde")
random_inputs = settings(derandomize=True, deadline=None, max_examples=40, database=None)
seeds = given(st.integers(0, 2**32 - 1))


def box_figures(truths: list[Boxes], found: list[Scored], classes: list[str]) -> dict[str, float]:
    return detection_figures(match_boxes(truths, found, len(classes)).precision, classes)


def metadata(task: str, classes: list[str] = NAMES) -> Metadata:
    return replace(CONTRACT, task=task, classes=classes, image_size=SIDE)


def some_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """A third of them tiny, 1 to 6 pixels a side."""
    low = random.uniform(0, SIDE - 8, (count, 2))
    side = np.where(random.random((count, 1)) < 0.3, 6, 40) * random.uniform(1 / 6, 1, (count, 2))
    return np.hstack([low, np.minimum(low + side, SIDE)]).astype(np.float32)


def scene(random: np.random.Generator, ignored: float) -> tuple[Boxes, Scored]:
    """Objects, and predictions near to them and elsewhere: often tied, at times over 100."""
    count = int(random.integers(0, 8))
    truth = some_boxes(random, count)
    labels = random.choice([0, 1, 3], count)  # classes 2 and 4 are absent, 4 from predictions too
    crowd = (random.random(count) < ignored) * CROWD
    copies = int(random.integers(0, 4)) if random.random() < 0.9 else 40
    near = np.repeat(truth, copies, axis=0)
    near = near + random.normal(0, 0.8, near.shape).astype(np.float32)
    far = some_boxes(random, int(random.integers(0, 9)))
    boxes = np.concatenate([near, far]).clip(0, SIDE).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    found = np.concatenate([np.repeat(labels, copies), random.integers(0, 4, len(far))])
    scores = (random.integers(1, 9, len(boxes)) / 8).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    return (
        Boxes(truth, labels.astype(np.int64), crowd.astype(np.uint8)),
        Scored(boxes[order], found[order].astype(np.int64), scores[order]),
    )


def as_json(one: Boxes | Scored, image: int) -> list[dict]:
    """COCO's annotations or results, with all digits."""
    rows = []
    for index, box in enumerate(one.boxes.astype(np.float64)):
        x1, y1, x2, y2 = box.tolist()
        row = {"image_id": image, "category_id": int(one.labels[index]) + 1}
        row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        if isinstance(one, Scored):
            row["score"] = float(one.scores[index])
        else:
            row |= {"iscrowd": int(one.ignored[index] == CROWD), "area": row["bbox"][2] * (y2 - y1)}
        rows.append(row)
    return rows


def by_pycocotools(truths: list[Boxes], found: list[Scored]) -> dict[str, float]:
    """As its own examples use it: files, `loadRes`, `accumulate`; and with every predicted box."""
    rows = [row for image, one in enumerate(truths) for row in as_json(one, image)]
    results = [row for image, one in enumerate(found) for row in as_json(one, image)]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image} for image in range(len(truths))],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)],
        "annotations": [row | {"id": number + 1} for number, row in enumerate(rows)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        given = truth.loadRes(json.loads(json.dumps(results)))
        evaluation = COCOeval(truth, given, "bbox")
        evaluation.params.maxDets = [1, 10, max(len(one.scores) for one in found)]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]

    def mean(part: np.ndarray) -> float:
        return float(part[part > -1].mean()) if (part > -1).any() else 0.0

    occur = [index for index in range(len(NAMES)) if precision[0, 0, index] > -1]
    each = {f"AP50/{NAMES[index]}": mean(precision[0, :, index]) for index in occur}
    return {"mAP": mean(precision), "mAP50": mean(precision[0]), **each}


@random_inputs
@seeds
def test_detection_is_that_of_pycocotools(seed):
    random = np.random.default_rng(seed)
    scenes = [scene(random, ignored=0.3) for _ in range(6)]
    truths, found = [one for one, _ in scenes], [one for _, one in scenes]
    if not any(len(one.scores) for one in found):
        return  # pycocotools cannot load no results at all
    ours = box_figures(truths, found, NAMES)
    assert ours == pytest.approx(by_pycocotools(truths, found), abs=1e-6)


def test_difficult_objects_are_ignored_as_in_voc():
    """Found twice, it is neither right nor false; a small box within it is false."""
    truth = Boxes(
        np.float32([[0, 0, 20, 20], [30, 30, 60, 60]]),
        np.zeros(2, np.int64),
        np.uint8([COUNTED, DIFFICULT]),
    )
    boxes = np.float32([[30, 30, 60, 60], [31, 30, 60, 60], [0, 0, 20, 20]])
    found = Scored(boxes, np.zeros(3, np.int64), np.float32([0.9, 0.8, 0.7]))
    assert box_figures([truth], [found], ["a"])["mAP"] == pytest.approx(1)
    boxes[1] = [40, 40, 50, 50]
    assert box_figures([truth], [found], ["a"])["mAP"] == pytest.approx(0.5)
    crowd = truth._replace(ignored=np.uint8([COUNTED, CROWD]))
    assert box_figures([crowd], [found], ["a"])["mAP"] == pytest.approx(1)


@random_inputs
@seeds
def test_classification_is_that_of_scikit_learn(seed):
    """Class `e` occurs nowhere, and others at times."""
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 40))
    scores = (random.integers(0, 4, (count, 5)) / 4 * [1, 1, 1, 1, 0]).astype(np.float32)
    scores[:, 0] += 0.1
    targets, labels = random.integers(0, 4, count), scores.argmax(axis=1)
    pictures = Pictures(Path(), [], targets.tolist())
    given = metadata("classification"), {"CLASS_PROBS": scores}, pictures
    ours = ClassificationReport(*given).metrics()
    theirs = MulticlassCalibrationError(5, n_bins=15)(torch.tensor(scores), torch.tensor(targets))
    assert ours.pop("ece") == pytest.approx(float(theirs), abs=1e-5)
    recalls = recall_score(targets, labels, labels=range(5), average=None, zero_division=0)
    occurs = np.union1d(targets, labels)
    expected = {f"recall/{NAMES[label]}": recalls[label] for label in np.unique(targets)}
    expected["accuracy"] = accuracy_score(targets, labels)
    expected["f1"] = f1_score(targets, labels, labels=occurs, average="macro", zero_division=0)
    assert ours == pytest.approx(expected, abs=1e-6)
    counts = confusion(targets, labels, 5)
    assert np.array_equal(counts, confusion_matrix(targets, labels, labels=range(5)))


@random_inputs
@seeds
def test_segmentation_is_that_of_scikit_learn(seed):
    """Pixels that are unknown, classes that are nowhere, and classes that are predicted only."""
    random = np.random.default_rng(seed)
    truth = random.choice([0, 1, 3, IGNORE], (3, 9, 7)).astype(np.uint8)
    masks = random.integers(0, 4, truth.shape).astype(np.uint8)
    known = truth != IGNORE
    ours = segmentation_figures(mask_confusion(truth, masks, 5), NAMES)
    pairs = truth[known], masks[known]
    each = jaccard_score(*pairs, labels=range(5), average=None, zero_division=0)
    expected = {f"IoU/{NAMES[label]}": each[label] for label in np.union1d(*pairs)}
    expected["mIoU"] = each[np.union1d(*pairs)].mean()
    expected["accuracy"] = accuracy_score(*pairs)
    assert ours == pytest.approx(expected, abs=1e-6)
