"""Every metric, in NumPy: validation during training and the reports use the same functions.

Shapes: N pictures, K classes, n boxes of one picture.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.pictures import COUNTED, CROWD, Boxes


def confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Confusion matrix `[K, K]` of class indices of any shape: rows are true, columns predicted."""
    pairs = truth.astype(np.int64) * classes + predicted
    return np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)


def without_prediction(counts: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    """Names of classes that occur but were never predicted, from a confusion matrix `[K, K]`."""
    missed = (counts.sum(axis=1) > 0) & (counts.sum(axis=0) == 0)
    return [classes[index] for index in np.flatnonzero(missed)]


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """`part / whole`, and NaN where `whole` is 0."""
    unknown = np.full(part.shape, np.nan)
    return np.divide(part, whole, out=unknown, where=whole > 0)


def counted_right(counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Precision and recall of each class from a confusion matrix `[K, K]`, rows the truth."""
    right = np.diag(counts)
    return {
        "precision": ratio(right, counts.sum(axis=0)),
        "recall": ratio(right, counts.sum(axis=1)),
    }


# Classification


def classification_figures(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """`accuracy`, `f1` and `recall/<class>` from the confusion matrix `[K, K]`.

    F1 is the mean over the classes that occur, in the targets or in the predictions. A class
    without targets has no recall, and is left out.
    """
    right, true, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    f1 = 2 * right / np.maximum(true + predicted, 1)
    recall = right / np.maximum(true, 1)
    return {
        "accuracy": float(right.sum() / max(counts.sum(), 1)),
        "f1": float(f1[true + predicted > 0].mean()),
        **{f"recall/{classes[index]}": float(recall[index]) for index in np.flatnonzero(true)},
    }


def expected_calibration_error(
    probabilities: NDArray[Any], labels: NDArray[Any], bins: int = 15
) -> float:
    """Mean difference between the probability of the predicted class and the share of right ones.

    The differences are those of `bins` intervals of equal width, weighted by their numbers of
    pictures (Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning").
    `probabilities` are `[N, K]`, `labels` are the true classes `[N]`.
    """
    sure = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    which = np.ceil(sure * bins).astype(np.int64).clip(1, bins)
    gaps = np.bincount(which, weights=right - sure)
    return float(np.abs(gaps).sum() / max(len(labels), 1))


# Segmentation


def segmentation_figures(counts: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """`mIoU`, `accuracy` and `IoU/<class>` from the confusion matrix of pixels `[K, K]`.

    A class that occurs neither in the masks nor in the predictions does not count in the mean.
    """
    known, overlaps = class_overlaps(counts)
    return {
        "mIoU": float(overlaps[known].mean()) if known.any() else 0.0,
        "accuracy": float(np.trace(counts) / max(np.sum(counts), 1)),
        **{f"IoU/{classes[index]}": float(overlaps[index]) for index in np.flatnonzero(known)},
    }


def class_overlaps(counts: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which classes occur, and the intersection over union of each, from a confusion matrix."""
    right = np.diag(counts)
    either = counts.sum(axis=0) + counts.sum(axis=1) - right
    return either > 0, right / np.maximum(either, 1)


def mask_confusion(
    truth: NDArray[np.uint8], mask: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    """The confusion matrix `[K, K]` of two masks of one shape; pixels of 255 do not count."""
    known = truth != images.IGNORE
    return confusion(truth[known], mask[known], classes)


# Detection


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


class Match(NamedTuple):
    """Which boxes of a picture lie on which objects, at an IoU of 0.5.

    Attributes:
        right: whether each box `[n]` found an object that counts.
        excused: whether a box `[n]` lies on an object that does not count; then it is no mistake.
        finders: for each object, the index of the box that found the object, or -1.
    """

    right: NDArray[np.bool_]
    excused: NDArray[np.bool_]
    finders: NDArray[np.int64]


class Verdict(NamedTuple):
    """The confident boxes of a picture that are right, and the objects that were missed.

    A box on an object that does not count is no mistake, and such an object cannot be missed.
    """

    right: NDArray[np.bool_]
    missed: NDArray[np.bool_]


class Evaluated(NamedTuple):
    """Boxes compared with objects by pycocotools.

    Attributes:
        precision: at IoU thresholds 0.5 to 0.95 and 101 recalls: `[10, 101, K]`, -1 where unknown.
        matches: of each picture.
    """

    precision: NDArray[np.float64]
    matches: list[Match]


def detection_figures(
    truths: Sequence[Boxes], found: Sequence[Scored], classes: Sequence[str]
) -> dict[str, float]:
    """`mAP`, `mAP50` and `AP50/<class>` of boxes in the pixels of the pictures, or of a square.

    A class without objects has no average precision: it is left out, also of the means.
    """
    return average_precisions(match_boxes(truths, found, len(classes)).precision, classes)


def average_precisions(precision: NDArray[np.float64], classes: Sequence[str]) -> dict[str, float]:
    """The figures of `detection_figures` from the precisions of `match_boxes`."""
    by_class = {name: mean_known(precision[0, :, index]) for index, name in enumerate(classes)}
    return {
        "mAP": max(0.0, mean_known(precision)),
        "mAP50": max(0.0, mean_known(precision[0])),
        **{f"AP50/{name}": value for name, value in by_class.items() if value >= 0},
    }


def mean_known(precision: NDArray[np.float64]) -> float:
    """The mean of the known values; -1 if none is known."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0


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
            for image, (truth, one) in enumerate(zip(truths, found, strict=True)):
                every = np.ones(len(truth.labels), bool)
                for label, objects in _by_class(
                    truth.boxes, truth.labels, every, ignored=truth.ignored
                ):
                    self._gts[image, label] = objects
                finite = np.isfinite(one.boxes).all(axis=1) & np.isfinite(one.scores)
                for label, objects in _by_class(one.boxes, one.labels, finite, score=one.scores):
                    self._dts[image, label] = objects

        def computeIoU(self, image: int, label: int) -> Any:  # noqa: N802
            """Overlaps of boxes and objects; for a crowd, divided by the area of the box."""
            for one in self._gts[image, label]:
                one["iscrowd"] = one["ignored"] == CROWD
            overlaps = super().computeIoU(image, label)
            for one in self._gts[image, label]:  # from here on: several boxes may match
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
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, 0]
    return Evaluated(precision, list(_read_matches(truths, found, evaluation.evalImgs)))


def _read_matches(
    truths: Sequence[Boxes], found: Sequence[Scored], results: Sequence[Any]
) -> Iterator[Match]:
    """Read each picture's match out of COCO's results, which come by class and picture."""
    for image, (truth, one) in enumerate(zip(truths, found, strict=True)):
        right, excused = np.zeros((2, len(one.scores)), bool)
        finders = np.full(len(truth.labels), -1)
        for result in filter(None, results[image :: len(truths)]):
            matched, ignored = result["dtMatches"][0] > 0, result["dtIgnore"][0] > 0
            boxes = np.array(result["dtIds"], np.int64) - 1
            right[boxes], excused[boxes] = matched & ~ignored, ignored
            objects = np.array(result["gtIds"], np.int64) - 1
            finders[objects] = result["gtMatches"][0].astype(np.int64) - 1
        yield Match(right, excused, finders)


def judge(truth: Boxes, one: Scored, match: Match, confidences: Sequence[float]) -> Verdict:
    """The right boxes and the missed objects of a picture, at these thresholds of the classes."""
    sure = one.are_sure(confidences)
    # Boxes with higher scores were matched first, so dropping the others changes no match.
    missed = (truth.ignored == COUNTED) & ~np.append(sure, False)[match.finders]
    return Verdict((match.right | match.excused)[sure], missed)


class Counts(NamedTuple):
    """The boxes of one class that count, `[n]` by falling score, and the number of its objects."""

    scores: NDArray[np.float32]
    right: NDArray[np.bool_]
    objects: int


def count_by_class(
    truths: Sequence[Boxes], found: Sequence[Scored], matches: Sequence[Match], classes: int
) -> list[Counts]:
    """Gather the boxes and objects of each class from all pictures, without excused boxes."""
    counted = np.concatenate([one.labels[one.ignored == COUNTED] for one in truths])
    labels = np.concatenate([one.labels for one in found])
    scores = np.concatenate([one.scores for one in found])
    right = np.concatenate([one.right for one in matches])
    fair = ~np.concatenate([one.excused for one in matches]) & np.isfinite(scores)
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
    last = int(f1.argmax())
    return (float(scores[last]) + float(following[last])) / 2


def operating_figures(
    by_class: Sequence[Counts], confidences: Sequence[float], classes: Sequence[str]
) -> dict[str, float]:
    """`mF1`, and `F1/<class>`, `precision/<class>` and `recall/<class>` at the thresholds.

    A class without objects is left out. If no box of a class passes, its precision is 0.
    """
    figures: dict[str, dict[str, float]] = {"F1": {}, "precision": {}, "recall": {}}
    for (scores, right, objects), least, name in zip(by_class, confidences, classes, strict=True):
        if objects:
            sure = scores >= np.float32(least)
            hits, boxes = int(right[sure].sum()), int(sure.sum())
            figures["F1"][name] = 2 * hits / (boxes + objects)
            figures["precision"][name] = hits / max(boxes, 1)
            figures["recall"][name] = hits / objects
    mean = float(np.mean(list(figures["F1"].values()))) if figures["F1"] else 0.0
    return {"mF1": mean} | {
        f"{kind}/{name}": value for kind, own in figures.items() for name, value in own.items()
    }


def _by_class(
    boxes: NDArray[Any], labels: NDArray[np.int64], chosen: NDArray[np.bool_], **fields: Any
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield each class that occurs with its chosen boxes in COCO's form: x, y, width, height."""
    exact = boxes.astype(np.float64)
    exact[:, 2:] -= exact[:, :2]
    for label in np.unique(labels[chosen]).tolist():
        yield (
            label,
            [
                {"id": index + 1, "bbox": exact[index], "area": exact[index, 2:].prod()}
                | {name: values[index] for name, values in fields.items()}
                for index in np.flatnonzero(chosen & (labels == label)).tolist()
            ],
        )


# Several labels per picture


def count_tags(truth: NDArray[np.bool_], shares: NDArray[np.float32]) -> list[Counts]:
    """The pictures of each class by falling probability, from true labels and probabilities."""
    order = np.argsort(-shares, axis=0, kind="stable")
    scores, right = (np.take_along_axis(one, order, axis=0) for one in (shares, truth))
    return [Counts(*columns) for columns in zip(scores.T, right.T, truth.sum(axis=0), strict=True)]


def average_precision(counts: Counts) -> float:
    """Average precision as scikit-learn defines it; at least one picture must have the label.

    It is the mean, over the pictures with the label, of the precision down to each of them. Equal
    probabilities count together.
    """
    scores, right, pictures = counts
    last = np.append(scores[1:] != scores[:-1], True)
    hits = right.cumsum()[last]
    precision = hits / (np.flatnonzero(last) + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / pictures)


def tagging_figures(
    by_class: Sequence[Counts], thresholds: Sequence[float], classes: Sequence[str]
) -> dict[str, float]:
    """`mAP` and `AP/<class>`, and the figures of `operating_figures` at the thresholds.

    A class without pictures is left out, also of the means.
    """
    pairs = zip(classes, by_class, strict=True)
    known = {f"AP/{name}": average_precision(one) for name, one in pairs if one.objects}
    mean = float(np.mean(list(known.values()))) if known else 0.0
    return {"mAP": mean} | operating_figures(by_class, thresholds, classes) | known
