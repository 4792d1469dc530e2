"""Pictures of results: drawn off-screen, returned as uint8 RGB arrays `[H, W, 3]`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from nano_cv.files import replacing

Drawing = NDArray[np.uint8]


def render(figure: Figure) -> Drawing:
    """The pixels of a figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(drawing: Drawing, file: Path) -> None:
    """Write a PNG, whole or not at all."""
    with replacing(file) as temporary:
        Image.fromarray(drawing).save(temporary, format="PNG")


def confusion_matrix(counts: NDArray[np.int64], classes: Sequence[str]) -> Drawing:
    """Rows are the truth, columns the prediction; colour is the share of the row."""
    side = max(4.0, 1.6 + 0.75 * len(classes))
    figure = Figure(figsize=(side, side), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 30:  # beyond that the numbers could not be read
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true")
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    axes.set_title(f"{accuracy:.1%} of {counts.sum()} right", fontsize=11)
    return render(figure)


def sheet(
    images: NDArray[np.uint8], captions: Sequence[str], names: Sequence[str], columns: int = 4
) -> Drawing:
    """A contact sheet of uint8 images `[N, 3, H, W]`, each with a caption and its file's name."""
    rows = max(1, -(-len(captions) // columns))
    figure = Figure(figsize=(2.6 * columns, 3.0 * rows), dpi=100, layout="constrained")
    for position, (image, caption, name) in enumerate(zip(images, captions, names, strict=True)):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.imshow(image.transpose(1, 2, 0))
        axes.set_title(caption, fontsize=9)
        axes.set_xlabel(name, fontsize=7)
        axes.set(xticks=[], yticks=[])
    if not captions:
        figure.text(0.5, 0.5, "nothing to show: no mistakes", ha="center")
    return render(figure)
