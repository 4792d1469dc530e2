"""Does the exported file answer as torch does? On real pictures, of odd sizes too."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nano_cv.data import images
from nano_cv.errors import UserError, listing
from nano_cv.export.graph import Arrays, in_batches, run_onnx, run_torch, session
from nano_cv.tasks.task import Task

BATCHES = (1, 3)
# Width, height and format: narrow, wide, smaller and much larger than what networks take.
ODD = (
    (97, 131, "JPEG"),
    (500, 333, "PNG"),
    (223, 225, "WEBP"),
    (31, 640, "JPEG"),
    (1023, 767, "JPEG"),
)
Run = Callable[[Arrays], Arrays]


def pictures(files: Sequence[Path], size: int, count: int = 60) -> tuple[list[str], Arrays]:
    """Real pictures as the model will meet them, some of them cut to odd sizes and encoded anew.

    Returns:
        A name for each, and `IMAGES` uint8 `[N, 3, size, size]`.
    """
    chosen = list(files[:: max(1, len(files) // count)][:count])
    names = [file.name for file in chosen]
    pixels = [images.load(file, size) for file in chosen]
    for file, (width, height, kind) in zip(chosen, ODD, strict=False):
        encoded = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: turned by a quarter, as telephones do
        images.decode(file).resize((width, height)).save(encoded, kind, exif=exif)
        names.append(f"{file.name} as {kind} of {width}x{height}")
        pixels.append(images.load(encoded.getvalue(), size, names[-1]))
    return names, {"IMAGES": np.stack(pixels).transpose(0, 3, 1, 2).copy()}


def compare(
    task: Task, file: Path, names: Sequence[str], inputs: Arrays, tolerance: float
) -> dict[str, float]:
    """Run torch and the exported file at the batch sizes of `BATCHES`.

    Returns:
        Over all pictures, batches and outputs: `parity/largest` and `parity/mean`, of the absolute
        differences of floating-point outputs; `parity/same`, the share of pictures with the same
        top class, and of equal numbers in integer outputs; `parity/pictures`, how many.

    Raises:
        UserError: they differ by more than `tolerance`; names the pictures that differ most.
    """
    model = session(file)
    expected = in_batches(partial(run_torch, task), inputs, BATCHES[0])
    differences, same = [], []
    for size in BATCHES:
        actual = in_batches(partial(run_onnx, model), inputs, size)
        for name, values in expected.items():
            differences.append(_difference(values, actual[name]))
            same.append(_same(values, actual[name]))
    by_picture = np.max(differences, axis=0)
    largest = float(by_picture.max())
    if not largest <= tolerance:
        worst = [f"{names[i]} ({by_picture[i]:.1e})" for i in np.argsort(-by_picture)]
        raise UserError(
            f"the exported file differs from torch by {largest:.1e}, and "
            f"tolerance={tolerance:g} is allowed; nothing was published. "
            f"Worst: {listing(worst, most=5)}"
        )
    return {
        "parity/largest": largest,
        "parity/mean": float(np.mean(differences)),
        "parity/same": float(np.mean(same)),
        "parity/pictures": len(names),
    }


def _difference(expected: NDArray[Any], actual: NDArray[Any]) -> NDArray[np.float64]:
    """The largest of each picture; whole numbers have none, `_same` counts those."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return np.full(len(expected), np.inf)
    if not np.issubdtype(expected.dtype, np.floating):
        return np.zeros(len(expected))
    difference = np.abs(expected.astype(np.float64) - actual)
    return np.nan_to_num(difference, nan=np.inf).reshape(len(expected), -1).max(axis=1)


def _same(expected: NDArray[Any], actual: NDArray[Any]) -> NDArray[np.float64]:
    """For each picture 1 where the top class is the same, or the share of equal whole numbers."""
    if expected.shape != actual.shape:
        return np.zeros(len(expected))
    if np.issubdtype(expected.dtype, np.floating):
        if expected.ndim != 2:
            return np.ones(len(expected))
        return (expected.argmax(axis=1) == actual.argmax(axis=1)).astype(np.float64)
    return (expected == actual).reshape(len(expected), -1).mean(axis=1)
