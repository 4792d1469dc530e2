"""Report of object detection: COCO's mean average precision, F1, drawings, COCO JSON.

Shapes: N pictures, D predicted boxes per picture, n boxes of one picture, K classes.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.targets import COUNTED, Boxes
from nano_cv.evaluation import drawing, painting
from nano_cv.evaluation.drawing import Drawing, chart_style
from nano_cv.evaluation.reports import Predictions, Report
from nano_cv.evaluation.tables import class_rows
from nano_cv.files import write_whole
from nano_cv.tasks.metrics import mean_known
from nano_cv.tasks.score_metrics import (
    Counts,
    Evaluated,
    Scored,
    at_thresholds,
    count_by_class,
    detection_figures,
    match_boxes,
    operating_figures,
)

MAX_CURVES = 12  # classes in the drawing of precision over recall
MIN_SCORE = 0.01  # score from which on a box stands in detections.json
VERDICTS: Mapping[str, tuple[int, ...]] = {  # colours that the colour-blind can tell apart
    "found": (86, 180, 233),
    "false": (213, 94, 0),
    "missed": (240, 228, 66),
}
SIDES = ("x1", "y1", "x2", "y2")


class DetectionReport(Report):
    """Report of `BOXES` float32 `[N, D, 4]`, `LABELS`, `SCORES` `[N, D]`; targets are `Boxes`."""

    gate = "mAP"
    choice = "evenly chosen, with boxes first"
    further_gates = ("mF1",)
    limits: ClassVar = {"pixels": 0.1, "score": 1e-3}

    @cached_property
    def found(self) -> list[Scored]:
        """The predicted boxes of each picture in its pixels, without those in the margins."""
        scored = []
        for index, (width, height) in enumerate(self.sizes):
            outputs = [self.predictions[name][index] for name in ("BOXES", "LABELS", "SCORES")]
            place = images.place(width, height, self.metadata.image_size, self.metadata.fit)
            scale = np.array([width / place.width, height / place.height] * 2)
            boxes = (outputs[0].astype(np.float64) - [place.left, place.top] * 2) * scale
            scored.append(Scored(boxes, *outputs[1:]).clipped((0, 0), (width, height)))
        return scored

    @cached_property
    def confident(self) -> list[Scored]:
        """The boxes of each picture that are shown and counted."""
        return [scored.keep(scored.are_sure(self.metadata.confidences)) for scored in self.found]

    @cached_property
    def truths(self) -> list[Boxes]:
        """The true objects of each picture, cut at its edges as for training."""
        pairs = zip(self.pictures.targets, self.sizes, strict=True)
        return [target.inside(*size) for target, size in pairs]

    @cached_property
    def evaluated(self) -> Evaluated:
        """All boxes compared with all objects."""
        return match_boxes(self.truths, self.found, len(self.classes))

    @cached_property
    def verdicts(self) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """For each picture, which of its shown boxes are right, and which objects were missed.

        A box on an object that does not count is no mistake, and such an object cannot be missed.
        """
        verdicts, trios = [], zip(self.truths, self.found, self.evaluated.matches, strict=True)
        for truth, scored, match in trios:
            sure = scored.are_sure(self.metadata.confidences)
            # Boxes with higher scores were matched first, so dropping the others changes no match.
            missed = (truth.ignored == COUNTED) & ~np.append(sure, False)[match.finders]
            verdicts.append(((match.right | match.excused)[sure], missed))
        return verdicts

    @cached_property
    def by_class(self) -> list[Counts]:
        """The boxes and the objects of each class."""
        return count_by_class(self.truths, self.found, self.evaluated.matches, len(self.classes))

    def metrics(self) -> dict[str, float]:
        """Metrics of all boxes, and of the boxes that are shown.

        Of all boxes: `mAP`, `mAP50` and `AP50/<class>`, defined by COCO. Of the boxes at or above
        their thresholds, at an IoU of 0.5: `mF1`, and `F1`, `precision` and `recall` per class.
        """
        figures = detection_figures(self.evaluated.precision, self.classes)
        return figures | operating_figures(self.by_class, self.metadata.confidences, self.classes)

    def rows(self) -> list[dict[str, Any]]:
        """A row per box that is shown, in pixels of the picture; an empty row if there is none."""
        rows = []
        blank = dict.fromkeys(("file", "label", "score", *SIDES), "")
        for name, scored in zip(self.pictures.names, self.confident, strict=True):
            for box, label, score in zip(*scored, strict=True):
                row = {"file": name, "label": self.classes[label], "score": f"{score:.4f}"}
                sides = zip(SIDES, box, strict=True)
                rows.append(row | {side: f"{value:.1f}" for side, value in sides})
            if not len(scored.scores):
                rows.append(blank | {"file": name})
        return rows

    def describe(self, top: int | None) -> dict[str, Any]:
        """Size of the picture, and its boxes that are shown, by falling score.

        If none is shown, `highest` has the label and the score of the surest box.
        """
        width, height = self.sizes[0]
        (scored,) = self.confident
        boxes = [
            {
                "label": self.classes[scored.labels[index]],
                "score": round(float(scored.scores[index]), 4),
                "box": [round(float(side), 1) for side in scored.boxes[index]],
            }
            for index in np.argsort(-scored.scores, kind="stable")
        ]
        answer = {"width": width, "height": height, "boxes": boxes}
        if boxes:
            return answer
        score, label = self._highest(0)
        return answer | {"highest": {"label": self.classes[label], "score": round(score, 4)}}

    def remarks(self) -> list[str]:
        """In how many pictures no box is shown, and why; if known, only pictures with objects."""
        looked = [
            index
            for index in range(len(self.pictures))
            if not self.pictures.targets or len(self.truths[index].counted)
        ]
        empty = [index for index in looked if not len(self.confident[index].scores)]
        if not empty:
            return []
        index = max(empty, key=lambda index: self._highest(index)[0])
        score, label = self._highest(index)
        where, least = self.pictures.names[index], math.floor(100 * score) / 100
        if len(looked) > 1:
            where = f"{len(empty)} of {len(looked)} pictures"
        return [
            f"no box is sure enough in {where}; the highest score there is {score:.3g}, of "
            f"{self.classes[label]}, which is shown from {self.metadata.confidences[label]:.3g} on"
            + (f" (a confidence of {least:g} shows it)" if least else "")
        ]

    def class_rows(self) -> list[dict[str, Any]]:
        """Objects, precision, recall and F1 of the shown boxes, AP50 and AP of each class."""
        precision = self.evaluated.precision
        columns = {
            "objects": np.array([counts.objects for counts in self.by_class]),
            "threshold": np.array(self.metadata.confidences),
            **at_thresholds(self.by_class, self.metadata.confidences),
            "AP50": precision[0].mean(axis=0),
            "AP": precision.mean(axis=(0, 1)),
        }
        return class_rows(self.classes, columns)

    def drawings(self) -> dict[str, Callable[[], Drawing]]:
        """Pictures with boxes; with targets also those with most mistakes, and curves."""
        drawings = super().drawings()
        if self.pictures.targets:
            drawings["precision_recall"] = self._draw_curves
        return drawings

    def _is_empty(self, index: int) -> bool:
        known = self.pictures.targets and len(self.truths[index].counted)
        return not known and not len(self.confident[index].scores)

    def _mistakes(self) -> tuple[NDArray[Any], str]:
        wrong = [(~right).sum() + missed.sum() for right, missed in self.verdicts]
        return np.array(wrong), "most wrong boxes first"

    def _draw_sheet(self, indices: Sequence[int], what: str) -> Drawing:
        """Draw pictures with the shown boxes, their scores, and the missed objects."""
        lowest, highest = min(self.metadata.confidences), max(self.metadata.confidences)
        limits = f"{lowest:.2f}" if lowest == highest else f"{lowest:.2f} to {highest:.2f}"
        title = f"{self.title_of(indices, what)}\nboxes with a score of {limits} or more"
        if self.pictures.targets:
            legend = painting.key(VERDICTS)
        else:
            labels = np.concatenate([self.confident[index].labels for index in indices])
            legend = painting.class_key(self.drawn, labels)
        return drawing.sheet(self.pictures, indices, self._caption, self._paint, 3, title, legend)

    def _caption(self, index: int) -> str:
        if self.pictures.targets:
            right, missed = self.verdicts[index]
            found = len(self.truths[index].counted) - missed.sum()
            return f"{found} found, {(~right).sum()} false, {missed.sum()} missed"
        if count := len(self.confident[index].scores):
            return f"{count} found"
        score, label = self._highest(index)
        return f"no box is sure enough; the highest score is {score:.2f}, of {self.drawn[label]}"

    def _highest(self, index: int) -> tuple[float, int]:
        """The highest score in a picture, and the class of this box."""
        scores = np.nan_to_num(self.found[index].scores)
        if not len(scores):  # all boxes were in the margins
            return 0.0, 0
        return float(scores.max()), int(self.found[index].labels[scores.argmax()])

    def _paint(self, image: Drawing, index: int) -> list[Drawing]:
        boxes, labels, scores = self.confident[index]
        several = len(self.classes) > 1  # a single class needs no name at each box
        captions = [
            f"{self.drawn[label]} {score:.2f}" if several else f"{score:.2f}"
            for label, score in zip(labels, scores, strict=True)
        ]
        colours = painting.box_colours(labels)
        if self.pictures.targets:
            truth, (right, missed) = self.truths[index], self.verdicts[index]
            colours = [VERDICTS["found" if hit else "false"] for hit in right]
            colours += [VERDICTS["missed"]] * int(missed.sum())
            boxes = np.concatenate([boxes, truth.boxes[missed]])
            captions += [self.drawn[label] for label in truth.labels[missed]] * several
        # The picture is drawn in another size than its file has.
        scale = image.shape[1] / self.sizes[index][0]
        return [painting.outline(image, boxes * scale, colours, captions)]

    @chart_style()
    def _draw_curves(self) -> Drawing:
        """Draw precision over recall of each class, or of the worst of very many, and the mean."""
        precision = self.evaluated.precision[0]
        known = np.flatnonzero(~np.isnan(precision[0]))
        title, shown = self.title, known
        if len(known) > MAX_CURVES:
            shown = np.argsort(precision.mean(axis=0), kind="stable")[:MAX_CURVES]  # NaN comes last
            title += f"\nthe {MAX_CURVES} worst of {len(known):,} classes"
        lines = {self.drawn[index]: precision[:, index] for index in shown}
        if len(known) > 1:
            lines["mean of all"] = precision[:, known].mean(axis=1)
        figure = drawing.make_figure(8, 4.8, title=title)
        axes = figure.add_subplot()
        for index, (name, line) in enumerate(lines.items()):
            style = "-" if index < 10 else "--"  # there are ten colours
            label = f"{mean_known(line):.3f} {drawing.two_lines(name)}"
            axes.plot(np.linspace(0, 1, len(line)), line, style, label=label)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision at IoU 0.5")
        axes.grid(alpha=0.3)
        if lines:
            figure.legend(fontsize=8, loc="outside right upper", title="AP50")
        return drawing.render(figure)

    def write_files(self, folder: Path) -> None:
        """Write `detections.json` in COCO's format, with a `score` per box; ids begin at 1."""
        pictured: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for name, (width, height), scored in zip(
            self.pictures.names, self.sizes, self.found, strict=True
        ):
            number = len(pictured) + 1
            pictured.append({"id": number, "file_name": name, "width": width, "height": height})
            for box, label, score in zip(*scored.keep(scored.scores >= MIN_SCORE), strict=True):
                x1, y1, x2, y2 = (round(float(value), 2) for value in box)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": int(label) + 1,
                        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                        "area": round((x2 - x1) * (y2 - y1), 2),
                        "iscrowd": 0,
                        "score": float(score),
                    }
                )
        categories = [{"id": index + 1, "name": name} for index, name in enumerate(self.classes)]
        content = {"images": pictured, "categories": categories, "annotations": annotations}
        write_whole(folder / "detections.json", json.dumps(content))

    @staticmethod
    def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
        """The largest differences of corners and scores, of boxes that matter to a user.

        Those are the boxes with at least a tenth of the highest score of their class. In even areas
        of a picture neighbouring places have the same low score, and rounding decides which of them
        is a box.
        Boxes of almost the same score may be in another order, so each box is compared with the
        most similar box of its class, in both directions.
        """
        limits = DetectionReport.limits
        labels = np.concatenate([expected["LABELS"], actual["LABELS"]])
        scores = np.concatenate([expected["SCORES"], actual["SCORES"]])
        least = np.full(labels.max(initial=0) + 1, MIN_SCORE)
        np.fmax.at(least, labels, 0.1 * scores)
        differences = []
        for index in range(len(expected["SCORES"])):
            own, other = ({name: side[name][index] for name in side} for side in (expected, actual))
            both = _farthest(own, other, least, **limits), _farthest(other, own, least, **limits)
            differences.append(np.max(both, axis=0))
        return dict(zip(limits, np.transpose(differences), strict=True))


def _farthest(
    own: Predictions, other: Predictions, least: NDArray[Any], pixels: float, score: float
) -> tuple[float, float]:
    """The largest differences of corners and scores between boxes and the most similar of `other`.

    Skipped are boxes with scores below the `least` of their class, and those with scores up to the
    lowest in `other`, which holds only its `max_detections` best boxes.
    """
    least = np.maximum(least[own["LABELS"]], other["SCORES"].min(initial=1.0) + score)
    kept = ~(own["SCORES"] < least)  # NaN is kept, because it is an error to report
    moved = np.abs(own["BOXES"][kept, None] - other["BOXES"]).max(axis=2)
    scores = np.abs(own["SCORES"][kept, None] - other["SCORES"])
    distance = moved / pixels + scores / score
    distance = np.where(own["LABELS"][kept, None] == other["LABELS"], distance, np.inf)
    rows, nearest = np.arange(len(distance)), distance.argmin(axis=1)
    if np.isinf(distance[rows, nearest]).any():
        return np.inf, np.inf
    return moved[rows, nearest].max(initial=0.0), scores[rows, nearest].max(initial=0.0)
