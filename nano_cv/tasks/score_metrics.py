"""Metrics of answers that have scores: boxes, and several labels per picture; see `metrics.py`.

Shapes: N pictures, K classes, n boxes of one picture.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nano_cv.data.targets import COUNTED, CROWD, Boxes
from nano_cv.tasks.metrics import by_name, mean_known, ratio


class Scored(NamedTuple):
    """Predicted boxes of a picture: boxes and labels as in `Boxes`, scores float32 `[n]`, 0..1."""

    boxes: NDArray[Any]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]

    def are_sure(self, confidences: Sequence[float]) -> NDArray[np.bool_]:
        """Which boxes `[n]` reach the threshold of their class; a score of 0 is never enough."""
        return (self.scores > 0) & (self.scores >= np.asarray(confidences, np.float32)[self.labels])

    def keep(self, chosen: NDArray[np.bool_]) -> "Scored":
        """The boxes where `chosen` `[n]` is true."""
        return Scored(self.boxes[chosen], self.labels[chosen], self.scores[chosen])

    def clipped(self, first: Sequence[float], last: Sequence[float]) -> "Scored":
        """The boxes cut at the corners (x, y) of an area; without those that lie outside of it."""
        boxes = self.boxes.clip([*first, *first], [*last, *last])
        return self._replace(boxes=boxes).keep((boxes[:, 2:] > boxes[:, :2]).all(axis=1))


class Match(NamedTuple):
    """Which boxes of a picture lie on which objects, at an IoU of 0.5."""

    right: NDArray[np.bool_]  # whether each box `[n]` found an object that counts
    excused: NDArray[np.bool_]  # whether each box `[n]` lies on an object that does not count
    finders: NDArray[np.int64]  # for each object, the index of the box that found it, or -1


class Evaluated(NamedTuple):
    """Boxes compared with objects by pycocotools.

    The precision is `[10, 101, K]`: at IoU thresholds 0.5 to 0.95 and 101 recalls; NaN for a class
    without objects.
    """

    precision: NDArray[np.float64]
    matches: list[Match]


def detection_figures(precision: NDArray[np.float64], classes: Sequence[str]) -> dict[str, float]:
    """`mAP`, `mAP50` and `AP50/<class>` from the precisions of `match_boxes`.

    A class without objects has no average precision: it is left out, also of the means.
    """
    figures = {"mAP": mean_known(precision), "mAP50": mean_known(precision[0])}
    return figures | by_name("AP50", precision[0].mean(axis=0), classes)


def match_boxes(truths: Sequence[Boxes], found: Sequence[Scored], classes: int) -> Evaluated:
    """Match predicted boxes with objects; in each class, the box with the highest score is first.

    Every predicted box counts, however many there are. Boxes in a crowd are ignored as COCO does
    it: if the crowd covers enough of the box, whatever the union. Boxes on a difficult object are
    ignored as PASCAL VOC does it: by the IoU. Crowds and difficult objects take any number of
    boxes. Boxes and scores that are not finite numbers are dropped.
    """
    from pycocotools.cocoeval import COCOeval

    class Evaluation(COCOeval):
        """COCO's evaluation, fed with arrays instead of JSON."""

        def _prepare(self) -> None:
            pairs = enumerate(zip(truths, found, strict=True))
            for image, (truth, (boxes, labels, scores)) in pairs:
                objects = _in_coco(truth.boxes, ignored=truth.ignored)
                for label, item in zip(truth.labels.tolist(), objects, strict=True):
                    self._gts[image, label].append(item)
                finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
                items = _in_coco(boxes, score=scores)
                for label, item in compress(zip(labels.tolist(), items, strict=True), finite):
                    self._dts[image, label].append(item)

        def computeIoU(self, image: int, label: int) -> Any:  # noqa: N802
            """Overlaps of boxes and objects; for a crowd, divided by the area of the box."""
            for item in self._gts[image, label]:
                item["iscrowd"] = item["ignored"] == CROWD
            overlaps = super().computeIoU(image, label)
            for item in self._gts[image, label]:  # from here on: several boxes may match
                item["iscrowd"] = item["ignore"] = item["ignored"] != COUNTED
            return overlaps

    evaluation = Evaluation(iouType="bbox")
    parameters = evaluation.params
    parameters.imgIds, parameters.catIds = list(range(len(truths))), list(range(classes))
    parameters.maxDets = [max(len(scored.scores) for scored in found)]
    parameters.areaRng, parameters.areaRngLbl = [[0, np.inf]], ["all"]
    with contextlib.redirect_stdout(io.StringIO()):  # it reports progress there
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, 0]
    precision = np.where(precision < 0, np.nan, precision)
    return Evaluated(precision, list(_read_matches(truths, found, evaluation.evalImgs)))


def _read_matches(
    truths: Sequence[Boxes], found: Sequence[Scored], results: Sequence[Any]
) -> Iterator[Match]:
    """Read each picture's match out of COCO's results, which come by class and picture."""
    for image, (truth, scored) in enumerate(zip(truths, found, strict=True)):
        right, excused = np.zeros((2, len(scored.scores)), bool)
        finders = np.full(len(truth.labels), -1)
        for result in filter(None, results[image :: len(truths)]):
            matched, ignored = result["dtMatches"][0] > 0, result["dtIgnore"][0] > 0
            boxes = np.array(result["dtIds"], np.int64) - 1
            right[boxes], excused[boxes] = matched & ~ignored, ignored
            objects = np.array(result["gtIds"], np.int64) - 1
            finders[objects] = result["gtMatches"][0].astype(np.int64) - 1
        yield Match(right, excused, finders)


SAMPLES = 50  # resamplings of the pictures that choose the threshold of a label


class Counts(NamedTuple):
    """The boxes of one class that count, `[n]` by falling score, and the number of its objects."""

    scores: NDArray[np.float32]
    right: NDArray[np.bool_]
    objects: int


def count_by_class(
    truths: Sequence[Boxes], found: Sequence[Scored], matches: Sequence[Match], classes: int
) -> list[Counts]:
    """Gather the boxes and objects of each class from all pictures, without excused boxes."""
    counted = np.concatenate([truth.counted for truth in truths])
    labels = np.concatenate([scored.labels for scored in found])
    scores = np.concatenate([scored.scores for scored in found])
    right = np.concatenate([match.right for match in matches])
    fair = ~np.concatenate([match.excused for match in matches]) & np.isfinite(scores)
    by_class = []
    for label in range(classes):
        own = np.flatnonzero(fair & (labels == label))
        own = own[np.argsort(-scores[own], kind="stable")]
        by_class.append(Counts(scores[own], right[own], int((counted == label).sum())))
    return by_class


def best_threshold(counts: Counts, default: float) -> float:
    """The confidence threshold of a class at which F1 is highest; the default if no box is right.

    The threshold is half-way between the last score above and the first score below, so that small
    changes of the scores change no answer.
    """
    scores, right, objects = counts
    if not objects or not right.any():
        return default
    f1 = 2 * right.cumsum() / (np.arange(1, len(right) + 1) + objects)
    following = np.append(scores[1:], 0)
    f1[scores == following] = 0  # boxes of one score are kept or left out together
    if not f1.any():  # all right boxes have the score 0
        return default
    last = int(f1.argmax())
    return (float(scores[last]) + float(following[last])) / 2


def steady_threshold(counts: Counts, default: float) -> float:
    """The mean, in logits, of the best thresholds of `SAMPLES` resamplings of the pictures.

    Of few pictures, the best threshold alone would fit a few of them too well. `counts` are those
    of a label, with a score for each picture. See Breiman 1996, "Bagging predictors".
    """
    scores, right, _ = counts
    random, found = np.random.default_rng(0), list[float]()
    for _ in range(SAMPLES):
        chosen = np.sort(random.integers(len(scores), size=len(scores)))  # by falling score
        own = right[chosen]
        found.append(best_threshold(Counts(scores[chosen], own, int(own.sum())), math.nan))
    known = np.array(found)[~np.isnan(found)].clip(1e-6, 1 - 1e-6)
    return float(1 / (1 + np.exp(-np.log(known / (1 - known)).mean()))) if len(known) else default


def at_thresholds(
    by_class: Sequence[Counts], confidences: Sequence[float]
) -> dict[str, NDArray[np.float64]]:
    """Precision, recall and F1 of each class `[K]` at its threshold.

    NaN for a class without objects, and for the precision if no box passes.
    """
    pairs = zip(by_class, confidences, strict=True)
    sure = [counts.right[counts.scores >= np.float32(least)] for counts, least in pairs]
    right, boxes = np.array([[flags.sum(), len(flags)] for flags in sure]).T
    objects = np.array([counts.objects for counts in by_class])
    f1, recall = ratio(2 * right, boxes + objects), ratio(right, objects)
    figures = {"precision": ratio(right, boxes), "recall": recall, "F1": f1}
    return {name: np.where(objects > 0, values, np.nan) for name, values in figures.items()}


def operating_figures(
    by_class: Sequence[Counts], confidences: Sequence[float], classes: Sequence[str]
) -> dict[str, float]:
    """`mF1`, and `F1/<class>`, `precision/<class>` and `recall/<class>`, see `at_thresholds`."""
    figures = at_thresholds(by_class, confidences)
    named = {"mF1": mean_known(figures["F1"])}
    for kind in ("F1", "precision", "recall"):
        named |= by_name(kind, figures[kind], classes)
    return named


def _in_coco(boxes: NDArray[Any], **fields: NDArray[Any]) -> list[dict[str, Any]]:
    """Boxes in COCO's form: x, y, width, height. Ids begin at 1, and `fields` have more values."""
    exact = boxes.astype(np.float64)
    exact[:, 2:] -= exact[:, :2]
    return [
        {"id": index + 1, "bbox": box, "area": box[2:].prod()}
        | {name: values[index] for name, values in fields.items()}
        for index, box in enumerate(exact)
    ]


# Several labels per picture


def count_tags(truth: NDArray[np.bool_], shares: NDArray[np.float32]) -> list[Counts]:
    """The pictures of each class by falling probability, from true labels and probabilities."""
    order = np.argsort(-shares, axis=0, kind="stable")
    scores, right = (np.take_along_axis(values, order, axis=0) for values in (shares, truth))
    return [Counts(*columns) for columns in zip(scores.T, right.T, truth.sum(axis=0), strict=True)]


def tag_precisions(by_class: Sequence[Counts]) -> NDArray[np.float64]:
    """Average precision of each class `[K]` as scikit-learn defines it; NaN without pictures.

    It is the mean, over the pictures with the label, of the precision down to each of them. Equal
    probabilities count together.
    """
    precisions = np.full(len(by_class), np.nan)
    for label, (scores, right, pictures) in enumerate(by_class):
        if pictures:
            last = np.append(scores[1:] != scores[:-1], True)
            hits = right.cumsum()[last]
            precision = hits / (np.flatnonzero(last) + 1)
            precisions[label] = (np.diff(hits, prepend=0) * precision).sum() / pictures
    return precisions


def tagging_figures(
    by_class: Sequence[Counts], thresholds: Sequence[float], classes: Sequence[str]
) -> dict[str, float]:
    """`mAP` and `AP/<class>`, and the figures of `operating_figures` at the thresholds.

    A class without pictures is left out, also of the means.
    """
    precisions = tag_precisions(by_class)
    figures = {"mAP": mean_known(precisions)} | operating_figures(by_class, thresholds, classes)
    return figures | by_name("AP", precisions, classes)
