"""What a model says of picture files, as a table in the terminal."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data.pictures import Pictures
from nano_cv.errors import printable
from nano_cv.evaluation import drawing, reports
from nano_cv.evaluation.tables import WORDS
from nano_cv.metadata import Metadata

WIDEST = 10  # columns
LONGEST = 20  # rows


def print_answers(
    metadata: Metadata,
    answers: Mapping[Path, Mapping[str, NDArray[Any]]],
    output: Path | None = None,
) -> None:
    """Print the table of the task's report; write and draw the rest of the report into a folder.

    Args:
        metadata: of the model.
        answers: the outputs of the model for each picture, without the batch dimension.
        output: the folder; by default nothing is written.
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


def print_rows(rows: Sequence[Mapping[str, Any]], remarks: Sequence[str]) -> None:
    """Print the first rows of a report as a table, how many more there are, and its remarks."""
    print(printable(format_table(rows[:LONGEST])), end="")
    if len(rows) > LONGEST:
        print(f"and {len(rows) - LONGEST:,} more rows")
    for remark in remarks:
        print(printable(remark))


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows in columns; of very many classes only the most probable are shown."""
    heads = list(rows[0])
    if len(heads) > WIDEST:
        words = [head for head in heads if head in WORDS]
        others = [head for head in heads if head not in WORDS]
        others.sort(key=lambda head: max(str(row[head]) for row in rows), reverse=True)
        heads = words + others[: WIDEST - len(words)]
    lines = [heads, *([str(row[head]) for head in heads] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )
