"""Object detection: COCO's mean average precision, boxes in the original picture, COCO JSON.

Shapes: N pictures, D boxes predicted for each.
"""

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.pictures import COUNTED, CROWD, Boxes, Pictures
from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.reports import Predictions
from nano_cv.files import replacing
from nano_cv.metadata import Metadata

MOST = 12  # pictures on a sheet
CURVES = 12  # lines in the drawing of precision over recall
CONFIDENT = 0.3  # score from which on a box is shown and counted
WRITTEN = 0.01  # score from which on a box stands in detections.json
OVERLAP = 0.5  # intersection over union from which on a box is the right one
FOUND, FALSE, MISSED = "#33dd33", "#ff4040", "#ffd020"

gate = "mAP"
limits = {"pixels": 0.1, "score": 1e-3}


def metrics(metadata: Metadata, predictions: Predictions, pictures: Pictures) -> dict[str, float]:
    """`mAP`, `mAP50` and `AP50/<class>`, as COCO defines them, by pycocotools.

    A class without any object in the pictures has no average precision: it is left out, and does
    not count in the means.
    """
    found = restored(metadata, predictions, pictures)
    return figures(truths_of(pictures), found, metadata.classes)


def figures(
    truths: Sequence[Boxes], found: Sequence["Scored"], classes: Sequence[str]
) -> dict[str, float]:
    """The same from the boxes of each picture; of the pictures' own pixels or of any square."""
    precision = precisions(truths, found, len(classes))
    by_class = [_mean(precision[0, :, index]) for index in range(len(classes))]
    return {
        "mAP": max(0.0, _mean(precision)),
        "mAP50": max(0.0, _mean(precision[0])),
        **{
            f"AP50/{name}": value
            for name, value in zip(classes, by_class, strict=True)
            if value >= 0
        },
    }


def truths_of(pictures: Pictures) -> list[Boxes]:
    """The objects of each picture, cut as for training."""
    pairs = zip(pictures.files, pictures.targets, strict=True)
    return [target.inside(*images.dimensions(file)) for file, target in pairs]


def _mean(precision: NDArray[np.float64]) -> float:
    """Of what is known; -1 if nothing is."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0


def precisions(
    truths: Sequence[Boxes], found: Sequence["Scored"], classes: int
) -> NDArray[np.float64]:
    """Precision at IoU thresholds 0.5 to 0.95 and 101 recalls: `[10, 101, K]`, -1 where unknown.

    Every predicted box counts, however many there are. What is found in a crowd is ignored as COCO
    does it: where enough of the predicted box, and not of the union, lies in the crowd. What is
    found on a difficult object is ignored as PASCAL VOC does it: by the IoU. Both ignore any number
    of boxes. A box or score that is not a finite number is no answer.
    """
    from pycocotools.cocoeval import COCOeval

    class Evaluation(COCOeval):
        """With the boxes as they are: no JSON, no index."""

        def _prepare(self) -> None:
            for image, (truth, one) in enumerate(zip(truths, found, strict=True)):
                for label, objects in _by_class(truth.boxes, truth.labels, ignored=truth.ignored):
                    self._gts[image, label] = objects
                sure = np.isfinite(one.boxes).all(axis=1) & np.isfinite(one.scores)
                given = one.boxes[sure], one.labels[sure]
                for label, objects in _by_class(*given, score=one.scores[sure]):
                    self._dts[image, label] = objects

        def computeIoU(self, image: int, label: int) -> Any:  # noqa: N802
            """Of one picture and class; `iscrowd` says here whether it is over the union."""
            for one in self._gts[image, label]:
                one["iscrowd"] = one["ignored"] == CROWD
            overlaps = super().computeIoU(image, label)
            for one in self._gts[image, label]:  # and from here on whether many may match
                one["iscrowd"] = one["ignore"] = one["ignored"] != COUNTED
            return overlaps

    evaluation = Evaluation(iouType="bbox")
    parameters = evaluation.params
    parameters.imgIds, parameters.catIds = list(range(len(truths))), list(range(classes))
    parameters.maxDets = [max(len(one.scores) for one in found)]
    parameters.areaRng, parameters.areaRngLbl = [[0, np.inf]], ["all"]
    with contextlib.redirect_stdout(io.StringIO()):  # it reports progress there
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[:, :, :, 0, 0]


def _by_class(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], **fields: NDArray[Any]
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Each class that occurs, and its boxes as COCO has them: x, y, width and height."""
    exact = boxes.astype(np.float64)
    exact[:, 2:] -= exact[:, :2]
    for label in np.unique(labels).tolist():
        yield (
            label,
            [
                {"id": index + 1, "bbox": exact[index], "area": exact[index, 2:].prod()}
                | {name: values[index] for name, values in fields.items()}
                for index in np.flatnonzero(labels == label).tolist()
            ],
        )


class Scored(NamedTuple):
    """Predicted boxes of a picture; as `Boxes`, and `scores` float32 `[n]` in 0..1."""

    boxes: NDArray[Any]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]


def restored(metadata: Metadata, predictions: Predictions, pictures: Pictures) -> list[Scored]:
    """The boxes of each picture in its own pixels: the fitting into the square undone."""
    return [
        in_picture(
            metadata,
            {name: predictions[name][index] for name in ("BOXES", "LABELS", "SCORES")},
            *images.dimensions(file),
        )
        for index, file in enumerate(pictures.files)
    ]


def in_picture(metadata: Metadata, outputs: Predictions, width: int, height: int) -> Scored:
    """The boxes that were predicted for one picture, in pixels of the picture."""
    place = images.place(width, height, metadata.image_size, metadata.fit)
    offset = np.array([place.left, place.top] * 2)
    scale = np.array([width / place.width, height / place.height] * 2)
    boxes = (outputs["BOXES"].astype(np.float64) - offset) * scale
    boxes = boxes.clip(0, np.array([width, height] * 2))
    return Scored(boxes, outputs["LABELS"], outputs["SCORES"])


def _as_coco(metadata: Metadata, boxes: Sequence[Scored], pictures: Pictures) -> dict[str, Any]:
    """Predicted boxes in COCO's format, rounded to a hundredth of a pixel; ids begin at 1."""
    pictured: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, (file, name) in enumerate(zip(pictures.files, pictures.names, strict=True)):
        width, height = images.dimensions(file)
        pictured.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for box, label, score in zip(*boxes[index], strict=True):
            x1, y1, x2, y2 = (round(float(value), 2) for value in box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                    "area": round((x2 - x1) * (y2 - y1), 2),
                    "iscrowd": 0,
                    "score": float(score),
                }
            )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(metadata.classes)]
    return {"images": pictured, "categories": categories, "annotations": annotations}


def table(metadata: Metadata, predictions: Predictions, pictures: Pictures) -> list[dict[str, Any]]:
    """A row for each confident box, in pixels of the picture; one of blanks if there is none."""
    rows = []
    answers = restored(metadata, predictions, pictures)
    for name, one in zip(pictures.names, answers, strict=True):
        sure = np.flatnonzero(one.scores >= CONFIDENT)
        for index in sure:
            row = {"file": name, "label": metadata.classes[one.labels[index]]}
            row["score"] = f"{one.scores[index]:.4f}"
            sides = zip(("x1", "y1", "x2", "y2"), one.boxes[index], strict=True)
            rows.append(row | {side: f"{value:.1f}" for side, value in sides})
        if not sure.size:
            rows.append(dict.fromkeys(("file", "label", "score", "x1", "y1", "x2", "y2"), ""))
            rows[-1]["file"] = name
    return rows


def draw(
    metadata: Metadata, predictions: Predictions, pictures: Pictures
) -> dict[str, Callable[[], Drawing]]:
    """Boxes upon pictures; with targets, the pictures with most mistakes, and precision curves."""
    answers = restored(metadata, predictions, pictures)
    some = drawing.evenly(len(pictures), MOST)
    if not pictures.targets:
        return {"predictions": partial(_sheet, metadata, answers, None, pictures, some)}
    truths = truths_of(pictures)
    verdicts = [_judge(one, truth) for one, truth in zip(answers, truths, strict=True)]
    wrong = [int((~found).sum() + missed.sum()) for found, missed in verdicts]
    order = np.argsort([-count for count in wrong], kind="stable").tolist()
    order = [index for index in order if wrong[index]]
    sheet = partial(_sheet, metadata, answers, verdicts, pictures)
    return {
        "predictions": partial(sheet, some),
        "worst_mistakes": partial(sheet, order),
        "precision_recall": partial(_curves, metadata, truths, answers),
    }


def _curves(metadata: Metadata, truths: Sequence[Boxes], answers: Sequence[Scored]) -> Drawing:
    """Precision over recall of each class, or of the worst and of the mean of very many."""
    precision = precisions(truths, answers, len(metadata.classes))[0]
    known = np.flatnonzero(precision[0] > -1)
    title, lines = "", {}
    if len(known) > CURVES:
        mean = precision[:, known].mean(axis=1)
        lines[f"{_mean(mean):.3f} mean of all"] = mean
        averages = precision[:, known].mean(axis=0)
        known = known[np.argsort(averages, kind="stable")[: CURVES - 1]]
        title = f"the {CURVES - 1} worst of {len(averages):,} classes, and the mean"
    for index in known:
        name = f"{_mean(precision[:, index]):.3f} {metadata.classes[index]}"
        lines[name] = precision[:, index]
    return drawing.curves(lines, "recall", "precision at IoU 0.5", title)


def _judge(one: Scored, truth: Boxes) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which confident boxes are right, and which objects were missed; the surest choose first.

    A box on what does not count is no mistake, and what does not count cannot be missed.
    """
    sure = one.scores >= CONFIDENT
    boxes, labels = one.boxes[sure], one.labels[sure]
    overlaps = _overlaps(boxes, truth) * (labels[:, None] == truth.labels)
    counted = truth.ignored == COUNTED
    found, missed = np.zeros(len(boxes), bool), counted.copy()
    for index in range(len(boxes)):
        left = overlaps[index] * missed
        if left.size and left.max() >= OVERLAP:
            found[index], missed[left.argmax()] = True, False
    return found | (overlaps * ~counted >= OVERLAP).any(axis=1), missed


def _overlaps(one: NDArray[np.float32], truth: Boxes) -> NDArray[np.float32]:
    """Intersections over unions `[n, m]`; over the predicted boxes where the object is a crowd."""
    other = truth.boxes
    low = np.maximum(one[:, None, :2], other[:, :2])
    high = np.minimum(one[:, None, 2:], other[:, 2:])
    both = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1] - both
    overlaps: NDArray[np.float32] = both / np.where(
        truth.ignored == CROWD, areas[0][:, None], union
    ).clip(min=1e-9)
    return overlaps


def _sheet(
    metadata: Metadata,
    answers: list[Scored],
    verdicts: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] | None,
    pictures: Pictures,
    indices: Any,
) -> Drawing:
    """Confident boxes: green as found, red as false, yellow as missed."""
    truths = truths_of(pictures) if verdicts else []
    several = len(metadata.classes) > 1  # with one class its name would only hide what it names

    def paint(image: Drawing, index: int) -> Drawing:
        one = answers[index]
        sure = one.scores >= CONFIDENT
        boxes, colours = one.boxes[sure], [FOUND] * int(sure.sum())
        captions = [metadata.classes[label] if several else "" for label in one.labels[sure]]
        if verdicts:
            found, missed = verdicts[index]
            colours = [FOUND if right else FALSE for right in found]
            boxes = np.concatenate([boxes, truths[index].boxes[missed]])
            labels = truths[index].labels[missed]
            colours += [MISSED] * len(labels)
            captions += [metadata.classes[label] if several else "" for label in labels]
        # A large photograph is decoded at a reduced size.
        boxes = boxes * (image.shape[1] / images.dimensions(pictures.files[index])[0])
        return drawing.outline(image, boxes, colours, captions if several else ())

    captions = [f"{int((one.scores >= CONFIDENT).sum())} found" for one in answers]
    if verdicts:
        captions = [
            f"{int(found.sum())} found, {int((~found).sum())} false, {int(missed.sum())} missed"
            for found, missed in verdicts
        ]
    title = "green: found, red: false, yellow: missed" if verdicts else ""
    return drawing.sheet(pictures, indices[:MOST], captions, paint, 3, title)


def write(metadata: Metadata, predictions: Predictions, pictures: Pictures, folder: Path) -> None:
    """`detections.json`: COCO's format, with a `score` for each box."""
    answers = []
    for one in restored(metadata, predictions, pictures):
        kept = one.scores >= WRITTEN
        answers.append(Scored(one.boxes[kept], one.labels[kept], one.scores[kept]))
    with replacing(folder / "detections.json") as temporary:
        temporary.write_text(json.dumps(_as_coco(metadata, answers, pictures)))


def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
    """How far boxes are moved, and how far scores are changed, of all that `write` would write.

    Two boxes of almost the same score may change places; so each is compared with the most alike of
    its class, in both directions.
    """
    found = {name: np.zeros(len(expected["SCORES"])) for name in limits}
    for index in range(len(expected["SCORES"])):
        sides = [{name: side[name][index] for name in side} for side in (expected, actual)]
        for one, other in (sides, sides[::-1]):
            for name, value in zip(limits, _farthest(one, other), strict=True):
                found[name][index] = np.maximum(found[name][index], value)
    return found


def _farthest(one: Predictions, other: Predictions) -> tuple[float, float]:
    """How far boxes are moved and scores changed at most, each against the most alike of `other`.

    What is scored no higher than the last of `other` may have been left out there, and is left out.
    """
    least = max(WRITTEN, other["SCORES"].min(initial=1.0) + limits["score"])
    kept = ~(one["SCORES"] < least)  # NaN is kept: it is to be seen
    moved = np.abs(one["BOXES"][kept, None] - other["BOXES"]).max(axis=2)
    scores = np.abs(one["SCORES"][kept, None] - other["SCORES"])
    distance = moved / limits["pixels"] + scores / limits["score"]
    distance = np.where(one["LABELS"][kept, None] == other["LABELS"], distance, np.inf)
    rows, nearest = np.arange(len(distance)), distance.argmin(axis=1)
    if np.isinf(distance[rows, nearest]).any():
        return np.inf, np.inf
    return moved[rows, nearest].max(initial=0.0), scores[rows, nearest].max(initial=0.0)
