"""Does the exported file answer as torch does? On real pictures, of odd sizes too."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from nano_cv.data import images
from nano_cv.data.store import File
from nano_cv.errors import UserError, listing
from nano_cv.evaluation import reports
from nano_cv.evaluation.engines import Arrays, Engine, predict_all
from nano_cv.evaluation.reports import Predictions
from nano_cv.metadata import Size

BATCHES = (1, 3)
# Width, height and format: narrow, wide, smaller and much larger than what networks take.
ODD = (
    (97, 131, "JPEG"),
    (500, 333, "PNG"),
    (223, 225, "WEBP"),
    (31, 640, "JPEG"),
    (1023, 767, "JPEG"),
)


def load_odd(
    files: Sequence[File], size: Size, fit: str, count: int = 60
) -> tuple[list[str], Arrays]:
    """Real pictures as the model will meet them, some of them cut to odd sizes and encoded anew.

    Returns:
        A name for each, and `IMAGES` uint8 `[N, 3, H, W]`.
    """
    chosen = list(files[:: max(1, len(files) // count)][:count])
    names = [file.name for file in chosen]
    pixels = [images.load(file, size, fit=fit) for file in chosen]
    for file, (width, height, kind) in zip(chosen, ODD, strict=False):
        encoded = io.BytesIO()
        exif = Image.Exif()
        exif[images.ORIENTATION] = 6  # turned by a quarter, as telephones do
        images.decode(file).resize((width, height)).save(encoded, kind, exif=exif)
        names.append(f"{file.name} as {kind} of {width}x{height}")
        pixels.append(images.load(encoded.getvalue(), size, names[-1], fit=fit))
    return names, {"IMAGES": np.stack(pixels).transpose(0, 3, 1, 2).copy()}


def check_parity(
    torch: Engine, onnx: Engine, names: Sequence[str], inputs: Arrays, tolerance: float
) -> dict[str, float]:
    """Run both engines, the exported one at the batch sizes of `BATCHES`.

    Args:
        torch: with the trained weights.
        onnx: the file exported from it.
        names: of the inputs.
        inputs: arrays `[N, ...]`.
        tolerance: times what the task's report allows.

    Returns:
        For each figure of the report's `compare`, the largest over all inputs and batches as
        `parity/<figure>`; and `parity/pictures`, how many there were.

    Raises:
        UserError: they differ by more; names the pictures that differ most.
    """
    report = reports.find(torch.metadata.task)

    def predict(engine: Engine, size: int) -> Predictions:
        def take(part: Sequence[int]) -> Arrays:
            return {name: array[list(part)] for name, array in inputs.items()}

        return predict_all(engine, take, len(names), size)

    expected = predict(torch, BATCHES[0])
    found: dict[str, Any] = {}
    for size in BATCHES:
        actual = predict(onnx, size)
        _check_shapes(expected, actual)
        for name, values in report.compare(expected, actual).items():
            found[name] = np.maximum(found.get(name, 0), np.where(np.isnan(values), np.inf, values))
    for name, values in found.items():
        allowed, largest = tolerance * report.limits[name], float(values.max())
        if largest > allowed:
            worst = [f"{names[i]} ({values[i]:.1e})" for i in np.argsort(-values)]
            raise UserError(
                f"the exported file differs from torch: {name} by {largest:.1e}, and {allowed:g} "
                f"is allowed (tolerance={tolerance:g}); nothing was published. "
                f"Worst: {listing(worst, most=5)}"
            )
    figures = {f"parity/{name}": float(values.max()) for name, values in found.items()}
    return figures | {"parity/pictures": len(names)}


def _check_shapes(expected: Predictions, actual: Predictions) -> None:
    for name, values in expected.items():
        other = actual[name]
        if values.shape != other.shape or values.dtype != other.dtype:
            raise UserError(
                f"the exported file answers {name} as {other.dtype} {list(other.shape)}, and torch "
                f"as {values.dtype} {list(values.shape)}; nothing was published"
            )
