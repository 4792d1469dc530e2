"""Boxes and masks drawn upon pictures, which are uint8 RGB arrays `[H, W, 3]`."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nano_cv.data.images import IGNORE
from nano_cv.data.kinds import BoxLists, Masks
from nano_cv.data.masks import enlarge_mask
from nano_cv.data.pictures import Resized, full_first
from nano_cv.evaluation.drawing import GAP, SIDE, Drawing, enlarge, fit, frame, lay_out

OKABE_ITO = ("56b4e9", "e69f00", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7")
Colour = tuple[int, ...]  # R, G, B
MAX_NAMED = 20  # classes that a legend names


def outline(
    image: Drawing,
    boxes: NDArray[np.floating],
    colours: Sequence[Colour],
    captions: Sequence[str] = (),
) -> Drawing:
    """Draw boxes `[N, 4]` xyxy with captions upon a picture; the first boxes are on top.

    Captions stay inside the picture. A caption that would cover an earlier one is left out.
    """
    canvas = Image.fromarray(image)
    pen, side = ImageDraw.Draw(canvas), max(canvas.size)
    for box, colour in [*zip(boxes, colours, strict=True)][::-1]:
        pen.rectangle(box.tolist(), outline=colour, width=max(2, side // 300))
    taken = np.zeros((0, 4))
    for (x1, y1, _, y2), colour, caption in zip(boxes, colours, captions, strict=False):
        label = tag(caption, max(10, side // 70), max(60, canvas.width // 2), colour)
        for top in (y1 - len(label), y1, y2):  # above the box, inside, below
            left = max(0, min(round(x1), canvas.width - label.shape[1]))
            place = np.array([left, top, left + label.shape[1], top + len(label)])
            apart = (taken[:, :2] >= place[2:]) | (taken[:, 2:] <= place[:2])
            if 0 <= top <= canvas.height - len(label) and apart.any(axis=1).all():
                taken = np.vstack([taken, place])
                canvas.paste(Image.fromarray(label), (left, round(top)))
                break
    return np.asarray(canvas)


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    """The PNG of a palette picture of class indices, with the colours of all drawings."""
    picture, file = Image.fromarray(mask), io.BytesIO()
    picture.putpalette(palette(256).tobytes())
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


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


def box_colours(labels: NDArray[np.integer]) -> list[Colour]:
    """The colours of boxes of these classes; unlike in masks, class 0 is not black."""
    return [tuple(colour) for colour in palette(257)[1 + labels % 256].tolist()]


def tag(text: str, size: int, width: int, ground: Colour) -> Drawing:
    """A label at most `width` pixels wide: a short text on the colour `ground`."""
    (line,), font = fit(text, size, width - 4)
    label = Image.new("RGB", (int(font.getlength(line)) + 4, size * 4 // 3), ground)
    bright = np.dot(ground, (0.299, 0.587, 0.114)) > 110
    middle = (2, label.height / 2)
    ImageDraw.Draw(label).text(middle, line, "black" if bright else "white", font, anchor="lm")
    return np.asarray(label)


def key(colours: Mapping[str, Colour]) -> Drawing | None:
    """A legend: names on their colours, in centred rows; only the first of very many names."""
    if not colours:
        return None
    names = [*colours][:MAX_NAMED]
    labels = [tag(name, 13, SIDE // 3, colours[name]) for name in names]
    if (rest := len(colours) - MAX_NAMED) > 0:
        labels.append(tag(f"and {rest} more classes", 13, SIDE, (255, 255, 255)))
    rows, space = list[Drawing](), np.full((len(labels[0]), GAP, 3), 255, np.uint8)
    for label in labels:
        if rows and rows[-1].shape[1] + GAP + label.shape[1] <= SIDE:
            rows[-1] = np.hstack([rows[-1], space, label])
        else:
            rows.append(label)
    return np.vstack([frame(row, SIDE, len(row) + GAP, "white") for row in rows])


def class_key(
    classes: Sequence[str], drawn: NDArray[np.integer], masks: bool = False
) -> Drawing | None:
    """The legend of those classes that occur in `drawn`, the indices of drawn boxes or masks."""
    names, colours = dict(enumerate(classes)), box_colours(np.arange(len(classes)))
    if masks:
        colours = [(255, 255, 255), *map(tuple, palette(256)[1:].tolist())]
        names[0] = f"{classes[0]} (not coloured)"
    return key({names.get(index, "unknown"): colours[index] for index in np.unique(drawn)})


def overlay(image: Drawing, mask: NDArray[np.uint8]) -> Drawing:
    """Colour a picture by its mask uint8 `[h, w]`, of any size; class 0 stays clear.

    Edges of a class, and so thin lines, hide the picture; inside it shines through.
    """
    height, width = image.shape[:2]
    known, mask = np.where(mask == IGNORE, 0, mask), enlarge_mask(mask, width, height)
    for axis, side in enumerate((height, width)):
        if known.shape[axis] > side:  # of each block the highest class: no thin line is lost
            starts = np.arange(side) * known.shape[axis] // side
            known = np.maximum.reduceat(known, starts, axis=axis)
    known = enlarge_mask(known, width, height)
    mask = np.where(known > 0, known, mask)
    near = [np.roll(mask, shift, axis) for axis in (0, 1) for shift in (1, -1)]
    edge = np.any([mask != other for other in near], axis=0)
    strength = np.where(mask == 0, 0.0, np.where(edge, 1.0, 0.5))[..., None]
    return (image * (1 - strength) + palette(256)[mask] * strength).astype(np.uint8)


def draw_targets(resized: Resized, classes: Sequence[str], most: int, title: str) -> Drawing:
    """Draw at most `most` training pictures with their true boxes or masks, and a legend."""
    shown, drawn, fitted = [], [np.zeros(0, np.int64)], resized.fitted

    def is_empty(index: int) -> bool:
        return isinstance(fitted, BoxLists) and not len(fitted.boxes[index].labels)

    for index in full_first(len(resized), most, is_empty):
        pixels = resized.fetch([index])[0]
        image = enlarge(pixels, 4)
        if isinstance(fitted, Masks):
            (labels,) = fitted.batch([index])
            shown.append(overlay(image, labels))
        else:
            assert isinstance(fitted, BoxLists)
            boxes, labels, _, _ = fitted.boxes[index]
            scale = image.shape[1] / pixels.shape[2]
            shown.append(outline(image, boxes * scale, box_colours(labels)))
        drawn.append(np.unique(labels))
    masks = isinstance(fitted, Masks)
    legend = class_key(classes, np.concatenate(drawn), masks)
    return lay_out(shown, 4, title=title, legend=legend)
