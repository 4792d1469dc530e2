"""What a model says of a picture, with names and units, and drawn.

Shapes: S side of the network's square, H and W of the picture that was sent.
"""

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from nano_cv.data import images
from nano_cv.evaluation import drawing
from nano_cv.evaluation.reports import detection, tagging
from nano_cv.evaluation.reports.classification import NONE, label_set
from nano_cv.metadata import TAGGING, Metadata

Outputs = Mapping[str, NDArray[Any]]  # of one picture, without the batch dimension
Size = tuple[int, int]  # W, H


def describe(metadata: Metadata, outputs: Outputs, size: Size, top: int | None) -> dict[str, Any]:
    """The answer of a model to one picture as JSON has it.

    Args:
        metadata: of the model; its thresholds say which boxes are told of.
        outputs: of the model.
        size: of the upright picture that was sent.
        top: how many of the most probable classes are told; None for all.
    """
    if metadata.task not in _DESCRIBE:  # a task of your own: its outputs as they are
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
    colours = drawing.palette(len(metadata.classes))
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
    """The answer as a PNG: a mask, or the picture with boxes or with the label upon it."""
    if metadata.task == "segmentation":
        return _png_of_mask(images.restore_mask(outputs["MASK"], *size, metadata.fit))
    image = images.decode(picture, 2 * drawing.SIDE)
    image.thumbnail((2 * drawing.SIDE, 2 * drawing.SIDE))
    if metadata.task == "detection":
        found = detection.in_picture(metadata, outputs, *size)
        found = found.keep(found.are_sure(metadata.confidences))
        colours = drawing.palette(len(metadata.classes) + 1)[1:]
        drawn = drawing.outline(
            np.asarray(image),
            found.boxes * (image.width / size[0]),
            [f"#{bytes(colours[label]).hex()}" for label in found.labels],
            [
                f"{metadata.classes[label]} {share:.0%}"
                for label, share in zip(found.labels, found.scores, strict=True)
            ],
        )
        return images.encode_png(drawn)
    shares = outputs["CLASS_PROBS"]
    caption = f"{drawing.shown(metadata.classes[shares.argmax()])} {shares.max():.0%}"
    if metadata.task == TAGGING:
        labels = label_set(metadata.classes, tagging.with_labels(metadata, outputs))
        caption = drawing.shown(", ".join(labels) or tagging.NONE)
    if "FOREIGN" in outputs and outputs["FOREIGN"][0] > 0:
        caption = NONE
    drawing.write(ImageDraw.Draw(image), 4, 4, caption, "white")
    return images.encode_png(np.asarray(image))


def encoded(content: bytes) -> str:
    """Base64, as JSON has to have bytes."""
    return base64.b64encode(content).decode()


def _png_of_mask(mask: NDArray[np.uint8]) -> bytes:
    """See `drawing.indexed`."""
    file = io.BytesIO()
    drawing.indexed(mask).save(file, "PNG", compress_level=1)
    return file.getvalue()


_DESCRIBE: Mapping[str, Callable[..., dict[str, Any]]] = {
    "classification": _probabilities,
    TAGGING: _labels,
    "detection": _boxes,
    "segmentation": _mask,
}
