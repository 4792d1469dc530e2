"""Survey of a data set: counts per class and split, picture sizes, and a contact sheet."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nano_cv.data import images
from nano_cv.data.kinds import BoxLists, Masks
from nano_cv.data.pictures import Resized
from nano_cv.evaluation import drawing, painting
from nano_cv.evaluation.drawing import Drawing
from nano_cv.files import replacing
from nano_cv.metadata import height_width

log = logging.getLogger(__name__)
MOST = 20  # classes that are listed
MEASURED = 500  # files whose size is looked at


def survey(splits: Mapping[str, Resized], data_hash: str, cache: str | Path | None) -> None:
    """Log the table of a data set when it is used for the first time.

    The folder `cache` gets a file with the table, named by the hash of the set. If the file is
    there, nothing is logged. Without a cache the table is logged each time.
    """
    seen = Path(cache).expanduser() / f"{data_hash[:24]}.txt" if cache else None
    if not (seen and seen.exists()):
        text = table(splits)
        log.info("Checked for the first time:\n%s", text)
        if seen:
            with replacing(seen) as temporary:
                temporary.write_text(text)


def table(splits: Mapping[str, Resized]) -> str:
    """The table of a set: pictures, objects or share of pixels by class and split, and sizes."""
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
    """Say the sizes of the smallest, the largest and the median picture, of at most `MEASURED`."""
    files = resized.pictures.files
    found = sorted(
        (images.dimensions(files[index]) for index in drawing.evenly(len(files), MEASURED)),
        key=lambda size: size[0] * size[1],
    )
    ends = [f"{width}x{height}" for width, height in (found[0], found[-1], found[len(found) // 2])]
    return "{} to {} pixels, {} in the middle".format(*ends)


def contact_sheet(resized: Resized) -> Drawing:
    """Training pictures as the network gets them: sorted by label, or with their boxes or masks."""
    height, width = height_width(resized.size)
    title = f"training pictures as the network sees them, {width}x{height} pixels"
    classes = drawing.legible(tuple(resized.pictures.classes))
    targets, fitted = resized.pictures.targets, resized.fitted
    order, columns, most = [*range(len(resized))], 4, 20
    if fitted.counts == "pictures":
        order.sort(key=lambda index: targets[index])
        columns, most = 8, 160
    shown, captions, painted = [], [], [np.zeros(0, np.int64)]
    for index in order[:: drawing.evenly(len(order), most).step]:
        pixels = resized.fetch([index])[0]
        image = drawing.enlarge(pixels, columns)
        if isinstance(fitted, Masks):
            (mask,) = fitted.batch([index])
            image = painting.overlay(image, mask)
            painted.append(np.unique(mask))
        elif isinstance(fitted, BoxLists):
            boxes, labels, _, _ = fitted.boxes[index]
            scale = image.shape[1] / pixels.shape[2]
            image = painting.outline(image, boxes * scale, painting.box_colours(labels))
            painted.append(labels)
        else:
            labels = np.atleast_1d(targets[index]).tolist()
            captions.append(", ".join(classes[label] for label in labels))
        shown.append(image)
    legend = painting.class_key(classes, np.concatenate(painted), isinstance(fitted, Masks))
    return drawing.lay_out(shown, columns, captions, title=title, legend=legend)
