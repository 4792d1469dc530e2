"""Survey of a data set: counts per class and split, picture sizes, and a contact sheet."""

import logging
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from nano_cv.data import images
from nano_cv.data.pictures import MAX_MEASURED, Resized, evenly, shaped
from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.terminal import format_table
from nano_cv.files import write_whole
from nano_cv.metadata import height_width

log = logging.getLogger(__name__)
MAX_LISTED = 20  # classes that are listed, or pictures with boxes or masks
MAX_SHOWN, COLUMNS = 96, 8  # pictures with labels, and pictures in a row
FAR_FROM_SQUARE = 2.5  # times as long as the other is a side of such an input


def survey(splits: Mapping[str, Resized], data_hash: str, cache: str | Path | None) -> None:
    """Log the table of a data set when it is used for the first time at this size.

    The folder `cache` gets a file with the table, named by the hash of the set and the size. If the
    file is there, nothing is logged. Without a cache the table is logged each time.
    """
    height, width = height_width(splits["val"].size)
    name = f"{data_hash[:24]}_{width}x{height}.txt"
    seen = Path(cache).expanduser() / name if cache else None
    if not (seen and seen.exists()):
        text = table(splits)
        log.info("Checked for the first time at %dx%d pixels:\n%s", width, height, text)
        if seen:  # a cache that is read only still serves
            with suppress(OSError):
                write_whole(seen, text)


def table(splits: Mapping[str, Resized]) -> str:
    """The table of a set: pictures, objects or share of pixels by class and split, and sizes."""
    counts = {split: resized.count() for split, resized in splits.items()}
    train = splits["train"]
    classes, unit, form = train.pictures.classes, train.fitted.unit, "d"
    if unit == "pixels":
        unit, form = "share of pixels", ".1%"
        counts = {split: numbers / max(numbers.sum(), 1) for split, numbers in counts.items()}
    rows: list[dict[str, str]] = [
        {unit: name} | {split: format(numbers[label], form) for split, numbers in counts.items()}
        for label, name in enumerate(classes[:MAX_LISTED])
    ]
    if len(classes) > MAX_LISTED:
        rows.append({unit: f"and {len(classes) - MAX_LISTED} more"} | dict.fromkeys(splits, ""))
    rows.append({unit: "all pictures"} | {name: str(len(part)) for name, part in splits.items()})
    files = train.pictures.files
    measured = [images.dimensions(files[index]) for index in evenly(len(files), MAX_MEASURED)]
    text = format_table(rows) + sizes(measured)
    side, other = height_width(splits["val"].size)
    if unit == "pictures" and train.fit == "stretch" and side == other:
        height, width = height_width(shaped(measured, side))
        if max(height, width) >= FAR_FROM_SQUARE * min(height, width):
            text += f"; model.image_size=[{height},{width}] is nearer to their shape"
    if train.fitted.unit == "pixels":
        from nano_cv.evaluation.reports.segmentation import thin_classes

        text = "\n".join([text, *thin_classes(splits["val"])])
    return textwrap.indent(text, "  ")


def sizes(measured: Sequence[tuple[int, int]]) -> str:
    """Say the sizes of the smallest, largest and median picture, from widths and heights."""
    pairs = sorted(measured, key=lambda size: (size[0] * size[1], size))
    ends = [f"{width}x{height}" for width, height in (pairs[0], pairs[-1], pairs[len(pairs) // 2])]
    return "{} to {} pixels, {} in the middle".format(*ends)


def contact_sheet(resized: Resized) -> Drawing:
    """Training pictures as the network gets them: sorted by label, or with their boxes or masks."""
    height, width = height_width(resized.size)
    title = f"training pictures as the network sees them, {width}x{height} pixels"
    classes = drawing.legible(tuple(resized.pictures.classes))
    if resized.fitted.unit != "pictures":
        from nano_cv.evaluation.painting import draw_targets

        return draw_targets(resized, classes, MAX_LISTED, title)
    targets = resized.pictures.targets
    order = sorted(range(len(resized)), key=lambda index: targets[index])
    chosen = [order[place] for place in evenly(len(order), MAX_SHOWN)]
    shown = [drawing.enlarge(pixels, COLUMNS) for pixels in resized.fetch(chosen)]
    labels = [np.atleast_1d(targets[index]).tolist() for index in chosen]
    captions = [", ".join(classes[label] for label in group) for group in labels]
    return drawing.lay_out(shown, COLUMNS, captions, title=title)
