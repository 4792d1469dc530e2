"""Turns the outputs of a model into named answers: as JSON, as a drawing, or printed.

Shapes: S side of the network's square, H and W of the picture that was sent.
"""

import base64
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.pictures import Pictures
from nano_cv.evaluation import drawing, painting, reports
from nano_cv.evaluation.reports import detection, tagging
from nano_cv.evaluation.reports.classification import label_set
from nano_cv.evaluation.terminal import print_rows
from nano_cv.metadata import TAGGING, Metadata

Outputs = Mapping[str, NDArray[Any]]  # of one picture, without the batch dimension
Size = tuple[int, int]  # W, H


def describe(metadata: Metadata, outputs: Outputs, size: Size, top: int | None) -> dict[str, Any]:
    """Turn the outputs for one picture into what JSON can hold.

    `size` is that of the upright picture. `top` is how many of the most probable classes are given;
    None gives all. The thresholds in the metadata decide which boxes are given.
    """
    if metadata.task not in _DESCRIBE:  # a task of the user's own: its outputs as they are
        return {name: values.tolist() for name, values in outputs.items()}
    return _DESCRIBE[metadata.task](metadata, outputs, size, top)


def _probabilities(
    metadata: Metadata, outputs: Outputs, size: Size, top: int | None
) -> dict[str, Any]:
    shares = outputs["CLASS_PROBS"]
    order = np.argsort(-shares, kind="stable")[:top]
    answer: dict[str, Any] = {"label": metadata.classes[order[0]]}
    if "LABEL_SET" in outputs:
        answer["label_set"] = label_set(metadata.classes, outputs)
    if "FOREIGN" in outputs:
        answer["foreign"] = bool(outputs["FOREIGN"][0] > 0)
    shown = {metadata.classes[n]: round(float(shares[n]), 6) for n in order}
    return answer | {"probabilities": shown}


def _labels(metadata: Metadata, outputs: Outputs, size: Size, top: int | None) -> dict[str, Any]:
    told = _probabilities(metadata, outputs, size, top)
    kept = {name: told[name] for name in ("foreign", "probabilities") if name in told}
    return {"labels": label_set(metadata.classes, tagging.with_labels(metadata, outputs))} | kept


def _boxes(metadata: Metadata, outputs: Outputs, size: Size, top: int | None) -> dict[str, Any]:
    found = detection.in_picture(metadata, outputs, *size)
    found = found.keep(found.are_sure(metadata.confidences))
    return {
        "width": size[0],
        "height": size[1],
        "boxes": [
            {
                "label": metadata.classes[found.labels[n]],
                "score": round(float(found.scores[n]), 4),
                "box": [round(float(side), 1) for side in found.boxes[n]],
            }
            for n in np.argsort(-found.scores, kind="stable")
        ],
    }


def _mask(metadata: Metadata, outputs: Outputs, size: Size, top: int | None) -> dict[str, Any]:
    mask = images.restore_mask(outputs["MASK"], *size, metadata.fit)
    shares = np.bincount(mask.ravel(), minlength=len(metadata.classes)) / mask.size
    colours = painting.palette(len(metadata.classes))
    return {
        "width": size[0],
        "height": size[1],
        "classes": [
            {
                "label": label,
                "share": round(float(share), 6),
                "colour": f"#{bytes(colour).hex()}",
            }
            for label, share, colour in zip(metadata.classes, shares, colours, strict=False)
        ],
        "mask_png": encoded(_png_of_mask(mask)),
    }


def picture_of(metadata: Metadata, outputs: Outputs, picture: bytes, size: Size) -> bytes:
    """The answer as a PNG: the mask, or the drawing of the report with boxes or a label."""
    if metadata.task == "segmentation":
        return _png_of_mask(images.restore_mask(outputs["MASK"], *size, metadata.fit))
    predictions = {name: values[None] for name, values in outputs.items()}
    report = reports.find(metadata.task)(metadata, predictions, Sent(Path(), [picture]))  # type: ignore[list-item]
    return images.encode_png(report.drawings()["predictions"]())


class Sent(Pictures):
    """One picture that was sent as bytes, without a name."""

    @property
    def names(self) -> list[str]:
        """An empty name, because none was sent."""
        return [""]


def print_answers(
    metadata: Metadata, answers: Mapping[Path, Outputs], output: Path | None = None
) -> None:
    """Print the table of the report; write its files and drawings into `output`, if given.

    `answers` are the outputs of the model for each picture, without the batch dimension.
    """
    outputs = next(iter(answers.values()))
    predictions = {name: np.stack([one[name] for one in answers.values()]) for name in outputs}
    files = [file.absolute() for file in answers]
    pictures = Pictures(Path(os.path.commonpath([file.parent for file in files])), files)
    given = dict(zip(pictures.names, answers, strict=True))
    report = reports.find(metadata.task)(metadata, predictions, pictures)
    rows = [row | {"file": given[row["file"]]} for row in report.rows()]
    print_rows(rows, report.remarks())
    if output:
        report.write_files(output)
        for name, draw in report.drawings().items():
            drawing.keep(name, draw, output)
        print(f"written to {output}")


def encoded(content: bytes) -> str:
    """Bytes as base64 text, for JSON."""
    return base64.b64encode(content).decode()


def _png_of_mask(mask: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    painting.indexed(mask).save(file, "PNG", compress_level=1)
    return file.getvalue()


_DESCRIBE: Mapping[str, Callable[..., dict[str, Any]]] = {
    "classification": _probabilities,
    TAGGING: _labels,
    "detection": _boxes,
    "segmentation": _mask,
}
