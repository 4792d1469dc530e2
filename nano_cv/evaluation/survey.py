"""Survey of a data set: counts per class and split, picture sizes, and a contact sheet."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from nano_cv.data import images
from nano_cv.data.pictures import Resized
from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.files import replacing

log = logging.getLogger(__name__)
MOST = 20  # classes that are listed or drawn
COLUMNS = 8  # pictures in a row
SIDE = 112  # pixels of one
MEASURED = 500  # files whose size is looked at


def survey(splits: Mapping[str, Resized], data_hash: str, cache: str | Path | None) -> None:
    """Log the table of a set, the first time that it is seen.

    Args:
        splits: by name.
        data_hash: of the set; a note of it in `cache` says that it has been seen.
        cache: folder of decoded pictures; None shows the table each time.
    """
    seen = Path(cache).expanduser() / f"{data_hash[:24]}.txt" if cache else None
    if not (seen and seen.exists()):
        text = table(splits)
        log.info("Checked for the first time:\n%s", text)
        if seen:
            with replacing(seen) as temporary:
                temporary.write_text(text)


def table(splits: Mapping[str, Resized]) -> str:
    """Pictures, or objects, or the share of the pixels of each class in each split; and sizes."""
    counts = {split: resized.count() for split, resized in splits.items()}
    train = splits["train"]
    classes, unit, form = train.pictures.classes, train.fitted.counts, "d"
    if unit == "pixels":
        unit, form = "share of pixels", ".1%"
        counts = {split: found / max(found.sum(), 1) for split, found in counts.items()}
    rows = [[unit, *splits]]
    for label, name in enumerate(classes[:MOST]):
        rows.append([name, *(format(found[label], form) for found in counts.values())])
    if len(classes) > MOST:
        rows.append([f"and {len(classes) - MOST} more", *("" for _ in splits)])
    rows.append(["all pictures", *(str(len(resized)) for resized in splits.values())])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        name.ljust(first) + "".join(f"  {cell:>{w}}" for cell, w in zip(cells, others, strict=True))
        for name, *cells in rows
    ]
    return "\n".join(f"  {line}" for line in [*lines, sizes(train)])


def sizes(resized: Resized) -> str:
    """The smallest, the middle and the largest picture, of those that are looked at."""
    files = resized.pictures.files
    found = sorted(
        (images.dimensions(files[index]) for index in drawing.evenly(len(files), MEASURED)),
        key=lambda size: size[0] * size[1],
    )
    ends = [f"{width}x{height}" for width, height in (found[0], found[-1], found[len(found) // 2])]
    return "{} to {} pixels, {} in the middle".format(*ends)


def contact_sheet(resized: Resized) -> Drawing:
    """Training pictures as the network gets them: a row per class, or with their boxes or masks."""
    pictures = resized.pictures
    if resized.fitted.counts != "pictures":
        chosen = list(drawing.evenly(len(pictures), 4 * COLUMNS))
        rows = [chosen[start : start + COLUMNS] for start in range(0, len(chosen), COLUMNS)]
        names = [""] * len(rows)
    else:
        labels: Any = resized.fitted.batch(range(len(pictures)))
        names = pictures.classes[:MOST]
        own = labels.T if labels.ndim == 2 else [labels == label for label in range(len(names))]
        of_class = [np.flatnonzero(has) for _, has in zip(names, own, strict=False)]
        rows = [some[list(drawing.evenly(len(some), COLUMNS))].tolist() for some in of_class]
    margin = 110 if any(names) else 0
    sheet = Image.new("RGB", (margin + COLUMNS * SIDE, len(rows) * SIDE), "white")
    pen = ImageDraw.Draw(sheet)
    for top, (name, indices) in enumerate(zip(names, rows, strict=True)):
        drawing.write(pen, 4, top * SIDE + SIDE // 2, drawing.shown(name, 17))
        for column, index in enumerate(indices):
            shown = Image.fromarray(painted(resized, index)).resize((SIDE - 2, SIDE - 2))
            sheet.paste(shown, (margin + column * SIDE, top * SIDE))
    return np.asarray(sheet)


def painted(resized: Resized, index: int) -> Drawing:
    """One picture with its boxes or mask."""
    image = np.ascontiguousarray(resized.fetch([index])[0].transpose(1, 2, 0))
    fitted: Any = resized.fitted
    if fitted.counts == "pixels":
        return drawing.overlay(image, fitted.batch([index])[0])
    if fitted.counts == "objects":
        boxes, labels, _, _ = fitted.boxes[index]
        colours = [f"#{drawing.OKABE_ITO[label % len(drawing.OKABE_ITO)]}" for label in labels]
        return drawing.outline(image, boxes, colours)
    return image
