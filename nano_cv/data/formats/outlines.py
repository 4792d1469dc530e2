"""Draws masks from outlines of objects: class 0 is the background, then follow the set's classes.

The masks are written once, as PNG files in a hidden folder of the set, so that they are read like
any other masks. The folder's name is a hash of the labels and of the sizes of the images, so
changed labels and mended images get another folder.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nano_cv.data import images
from nano_cv.data.formats.reading import Object, as_boxes, check_pixels, size_of, warn_of
from nano_cv.data.progress import track
from nano_cv.data.targets import COUNTED, Boxes
from nano_cv.errors import UserError, listing
from nano_cv.files import make_once

BACKGROUND = "background"
DRAWING_VERSION = 2  # raise it when `draw` changes, so that masks are drawn anew
MIN_NUMBERS = 6  # least length of a polygon's list of coordinates, which are three corners
MAX_LENGTH = 100  # longest polygon, in half perimeters of its picture


def classes_for(task: str, classes: list[str]) -> list[str]:
    """Return the classes of a set; for segmentation `background` comes first, and only once.

    labelme writes `_background_`.
    """
    if task != "segmentation":
        return classes
    return [BACKGROUND, *(name for name in classes if name.lower().strip("_") != BACKGROUND)]


def targets_for(
    task: str,
    root: Path,
    source: Path,
    files: Sequence[Path],
    pictures: Sequence[Sequence[Object]],
    classes: list[str],
) -> Sequence[Boxes] | Sequence[Path]:
    """Return the boxes of each image; for segmentation the file of its mask.

    A mask is written unless it was written before. Where objects overlap, the smaller object is on
    top. Pixels of groups (`iscrowd`) have no known class. `pictures` are the objects of each image.

    Raises:
        UserError: objects without an outline, or the folder cannot be written to.
    """
    if task != "segmentation":
        return as_boxes(source, pictures)
    every = [item for objects in pictures for item in objects]
    drawn = [item for item in every if isinstance(item.outline, list)]
    polygons = [polygon for item in drawn for polygon in item.outline]
    check_pixels(source, (number for polygon in polygons for number in polygon))
    if lacking := [item.where for item in every if not item.outline]:
        raise UserError(
            f"{source}: {len(lacking)} objects have a box and no outline, and segmentation needs "
            f"outlines: {listing(lacking, most=3)}; boxes are learnt by model=centernet"
        )
    flat = [item.where for item in drawn if max(map(len, item.outline)) < MIN_NUMBERS]
    warn_of(source, "outlines of less than three corners were left out", flat)
    names = classes_for("segmentation", classes)
    numbers = [names.index(name) if name in names else 0 for name in classes]
    known = [[(item.label, item.ignored, item.outline) for item in objects] for objects in pictures]
    sizes = [size_of(file) for file in files]
    text = json.dumps([DRAWING_VERSION, numbers, list(map(str, files)), known, sizes])
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = root / f".masks_{key}"

    def write(temporary: Path) -> None:
        rows = enumerate(zip(sizes, pictures, strict=True))
        for number, (size, objects) in track(rows, len(sizes), "Drawing masks once"):
            if size:  # bad images are reported later, when all are decoded
                mask = draw(objects, *size, numbers)
                (temporary / f"{number}.png").write_bytes(images.encode_png(mask))

    try:
        make_once(folder, write)
    except OSError as error:
        raise UserError(
            f"{folder}: the masks of the outlines cannot be written ({error.strerror}); copy the "
            "set to a folder that can be written to"
        ) from error
    return [folder / f"{number}.png" for number in range(len(files))]


def draw(
    objects: Sequence[Object], width: int, height: int, numbers: Sequence[int]
) -> NDArray[np.uint8]:
    """Draw the mask of an image of `width` x `height` pixels, uint8 `[H, W]`.

    Outlines are polygons, x1 y1 x2 y2 ... in pixels, or COCO's runs. An object with label k is
    drawn as `numbers[k]`.
    """
    from pycocotools import mask as coco

    encoded = []
    for item in objects:
        if isinstance(item.outline, dict):
            runs = coco.frPyObjects(item.outline, *item.outline["size"])
        else:
            # Clipped, as drawing takes memory for parts of an outline far outside of the image.
            parts = [np.reshape(part, (-1, 2)) for part in item.outline if len(part) >= MIN_NUMBERS]
            near = [part.clip((-width, -height), (2 * width, 2 * height)) for part in parts]
            steps = [np.abs(part - np.roll(part, 1, axis=0)).max(axis=1) for part in near]
            if max(map(np.sum, steps), default=0) > MAX_LENGTH * (width + height):
                raise UserError(f"{item.where}: an outline that crosses the picture over and over")
            polygons = [part.ravel().tolist() for part in near]
            runs = coco.merge(coco.frPyObjects(polygons, height, width)) if polygons else None
            if runs and not coco.area(runs):  # narrower than a pixel: drawn as a line
                line = Image.new("L", (width, height))
                for part in near:
                    near_picture = (part.max(axis=0) > -1) & (part.min(axis=0) <= (width, height))
                    if near_picture.all():
                        places = np.floor([*part, part[0]]).clip(0, (width - 1, height - 1))
                        ImageDraw.Draw(line).line(list(map(tuple, places)), 1)
                runs = coco.encode(np.asfortranarray(line))
        if runs:
            if runs["size"] != [height, width]:
                raise UserError(
                    f"{item.where}: a mask of {runs['size'][1]}x{runs['size'][0]} pixels, and its "
                    f"picture has {width}x{height}"
                )
            number = numbers[item.label] if item.ignored == COUNTED else images.IGNORE
            encoded.append((coco.area(runs), number, runs))
    mask = np.zeros((height, width), np.uint8, order="F")  # as pycocotools decodes
    # Decoded one after the other: a hundred masks of a large photograph would fill the memory.
    for _, number, runs in sorted(encoded, key=lambda triple: triple[0], reverse=True):
        np.copyto(mask, np.uint8(number), where=coco.decode(runs).view(bool))
    return mask
