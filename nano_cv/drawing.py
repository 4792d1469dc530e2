"""Pictures of results: drawn off-screen, returned as uint8 RGB arrays `[H, W, 3]`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nano_cv.data import images
from nano_cv.data.pictures import Pictures
from nano_cv.files import replacing

Drawing = NDArray[np.uint8]
OKABE_ITO = ("56b4e9", "e69f00", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7")
WIDTH = 10.4  # inches of a contact sheet
LONGEST = 48  # letters of a name; longer ones would reach into the next picture
SIDE = 480  # pixels; the longest side of a picture that is drawn upon


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
    pictures: Pictures,
    indices: Sequence[int],
    captions: Sequence[str],
    paint: Callable[[Drawing, int], Drawing] | None = None,
    columns: int = 4,
    title: str = "",
) -> Drawing:
    """A contact sheet of some pictures, each with its caption and its file's name.

    Args:
        pictures: all of them.
        indices: which to show.
        captions: of all of them.
        paint: draws upon a picture `[H, W, 3]`, of which it is told the index.
        columns: of the sheet.
        title: above all of them.
    """
    shown = [np.asarray(images.decode(pictures.files[index], SIDE)) for index in indices]
    shown = [paint(image, i) if paint else image for image, i in zip(shown, indices, strict=True)]
    names, shapes = pictures.names, [image.shape[0] / image.shape[1] for image in shown] or [0.5]
    rows = [shapes[start : start + columns] for start in range(0, len(shapes), columns)]
    heights = [max(row) * WIDTH / columns + 0.5 for row in rows]  # inches
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=100, layout="constrained")
    cells = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for position, (image, index) in enumerate(zip(shown, indices, strict=True)):
        axes = figure.add_subplot(cells[position])
        axes.imshow(image)
        axes.set_title(captions[index], fontsize=9)
        axes.set_xlabel(names[index][-LONGEST:], fontsize=7)
        axes.set(xticks=[], yticks=[])
    if title:
        figure.suptitle(title, fontsize=10)
    if not indices:
        figure.text(0.5, 0.5, "nothing to show: no mistakes", ha="center")
    return render(figure)


def evenly(count: int, most: int) -> range:
    """At most `most` of `count` indices, evenly: a list may be sorted, its beginning all alike."""
    return range(0, count, max(1, -(-count // most)))


def outline(
    image: Drawing,
    boxes: NDArray[np.float32],
    colours: Sequence[str],
    captions: Sequence[str] = (),
) -> Drawing:
    """Draw boxes `[N, 4]` xyxy upon a picture, at a size that leaves thin lines visible."""
    scale = SIDE / max(image.shape[:2])
    canvas = Image.fromarray(image)
    canvas = canvas.resize((round(canvas.width * scale), round(canvas.height * scale)))
    pen = ImageDraw.Draw(canvas)
    for index, box in enumerate(boxes * scale):
        pen.rectangle(box.tolist(), outline=colours[index], width=2)
        if captions:
            where = pen.textbbox((float(box[0]), max(0.0, float(box[1]) - 11)), captions[index])
            pen.rectangle(where, fill=colours[index])
            pen.text(where[:2], captions[index], fill="black")
    return np.asarray(canvas)


def palette(count: int) -> NDArray[np.uint8]:
    """Colours `[count, 3]` of classes, black first.

    Then those of Okabe and Ito (2008), which the colour-blind can tell apart, then Pascal VOC's.
    """
    index, colours = np.arange(count), np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> channel & 1) << 7 - bit).astype(np.uint8)
        index >>= 3
    first = [tuple(bytes.fromhex(colour)) for colour in OKABE_ITO]
    colours[1 : len(first) + 1] = first[: max(0, count - 1)]
    return colours


def overlay(image: Drawing, mask: NDArray[np.uint8]) -> Drawing:
    """A picture under the colours of its mask of class indices; class 0 stays clear.

    The mask, uint8 `[h, w]`, may be larger than the picture, which was decoded to be drawn.
    """
    height, width = image.shape[:2]
    mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    strength = np.where(mask == 0, 0.0, 0.5)[..., None]
    return (image * (1 - strength) + palette(256)[mask] * strength).astype(np.uint8)


def curves(lines: Mapping[str, NDArray[np.float64]], xlabel: str, ylabel: str) -> Drawing:
    """Named lines `[N]` over 0..1."""
    figure = Figure(figsize=(5, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for name, line in lines.items():
        axes.plot(np.linspace(0, 1, len(line)), line, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(fontsize=8)
    return render(figure)


def grid(pixels: NDArray[np.uint8], columns: int) -> Drawing:
    """Images uint8 `[N, 3, H, W]` side by side, without words."""
    count, _, height, width = pixels.shape
    rows = -(-count // columns)
    canvas = np.full((rows * columns, height + 2, width + 2, 3), 255, np.uint8)
    canvas[:count, 1:-1, 1:-1] = pixels.transpose(0, 2, 3, 1)
    tiled = canvas.reshape(rows, columns, height + 2, width + 2, 3).transpose(0, 2, 1, 3, 4)
    return tiled.reshape(rows * (height + 2), columns * (width + 2), 3)
