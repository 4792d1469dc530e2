"""Turns the outputs of a model into named answers: as JSON, as a drawing, or printed.

Shapes: S side of the network's square, H and W of the picture that was sent.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data import images
from nano_cv.data.pictures import Pictures
from nano_cv.errors import say
from nano_cv.evaluation import drawing, painting, reports
from nano_cv.evaluation.reports import Report
from nano_cv.evaluation.reports.segmentation import SegmentationReport
from nano_cv.evaluation.terminal import print_rows
from nano_cv.metadata import Metadata

Outputs = Mapping[str, NDArray[Any]]  # of one picture, without the batch dimension
Size = tuple[int, int]  # W, H


def describe(metadata: Metadata, outputs: Outputs, size: Size, top: int | None) -> dict[str, Any]:
    """Turn the outputs for one picture into what JSON can hold, see `Report.describe`.

    `size` is that of the upright picture. The thresholds in the metadata decide which boxes are
    given.
    """
    return _report(metadata, outputs, size).describe(top)


def picture_of(metadata: Metadata, outputs: Outputs, picture: bytes, size: Size) -> bytes:
    """The answer as a PNG: the mask, or the drawing of the report with boxes or a label."""
    report = _report(metadata, outputs, size, picture)
    if isinstance(report, SegmentationReport):
        return painting.encode_mask(report.restore(0))
    return images.encode_png(report.drawings()["predictions"]())


def _report(metadata: Metadata, outputs: Outputs, size: Size, picture: bytes = b"") -> Report:
    predictions = {name: values[None] for name, values in outputs.items()}
    report = reports.find(metadata.task)(metadata, predictions, Sent(Path(), [picture]))  # type: ignore[list-item]
    report.sizes = [size]
    return report


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
    predictions = {name: np.stack([out[name] for out in answers.values()]) for name in outputs}
    files = [file.absolute() for file in answers]
    pictures = Pictures(Path(os.path.commonpath([file.parent for file in files])), files)
    file_of = dict(zip(pictures.names, answers, strict=True))
    report = reports.find(metadata.task)(metadata, predictions, pictures)
    rows = [row | {"file": file_of[row["file"]]} for row in report.rows()]
    print_rows(rows, report.remarks())
    if output:
        report.write_files(output)
        for name, draw in report.drawings().items():
            drawing.write_drawing(name, draw, output)
        say(f"written to {output}")
