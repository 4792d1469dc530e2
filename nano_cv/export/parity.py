"""Check that the exported file answers as torch does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from nano_cv.data import images
from nano_cv.errors import UserError, listing
from nano_cv.evaluation import reports
from nano_cv.evaluation.engines import Arrays, Engine, predict_all
from nano_cv.evaluation.reports import Predictions

BATCHES = (1, 3)
MAX_IMAGES = 60  # images to compare
BUILT_IN = 24  # images to compare where there are no photographs


def draw_pictures() -> list[tuple[str, bytes]]:
    """Draw `BUILT_IN` PNG images, each with a name.

    The images have smooth colours, blocks with sharp edges, and some noise like a camera's. Their
    shapes differ, and they are the same on every machine.
    """
    drawn = []
    for number in range(BUILT_IN):
        random = np.random.default_rng(number)
        width, height = random.integers(160, 640, 2).tolist()
        parts = []
        for side, kind in ((4, Image.Resampling.BICUBIC), (9, Image.Resampling.NEAREST)):
            colours = Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8))
            parts.append(np.asarray(colours.resize((width, height), kind), np.float64))
        noise = random.normal(0, number % 4 * 8, (height, width, 3))  # none in every fourth image
        pixels = (np.mean(parts, axis=0) + noise).clip(0, 255).astype(np.uint8)
        drawn.append((f"built-in picture {number}", images.encode_png(pixels)))
    return drawn


def check_parity(
    trained: Engine, exported: Engine, names: Sequence[str], inputs: Arrays, tolerance: float
) -> dict[str, float]:
    """Compare the answers of both engines, in batches of the sizes `BATCHES`.

    A difference above its limit in the task's report, times `tolerance`, raises a `UserError` that
    names the worst inputs. For each difference of the report's `compare`, the largest over all
    inputs and batch sizes is returned as `parity/<name>`; and the number of inputs as
    `parity/pictures`.
    """
    report = reports.find(trained.metadata.task)

    def take(part: Sequence[int]) -> Arrays:
        return {name: array[list(part)] for name, array in inputs.items()}

    expected = predict_all(trained, take, len(names), BATCHES[0])
    apart: dict[str, Any] = {}
    for size in BATCHES:
        actual = predict_all(exported, take, len(names), size)
        _check_shapes(expected, actual)
        for name, values in report.compare(expected, actual).items():
            apart[name] = np.maximum(apart.get(name, 0), np.where(np.isnan(values), np.inf, values))
    for name, values in apart.items():
        allowed, largest = tolerance * report.limits[name], float(values.max())
        if largest > allowed:
            worst = [f"{names[i]} ({values[i]:.1e})" for i in np.argsort(-values)]
            raise UserError(
                f"the exported file differs from torch: {name} by {largest:.1e}, and {allowed:g} "
                f"is allowed (tolerance={tolerance:g}); nothing was published. "
                f"Worst: {listing(worst, most=5)}"
            )
    figures = {f"parity/{name}": float(values.max()) for name, values in apart.items()}
    return figures | {"parity/pictures": len(names)}


def _check_shapes(expected: Predictions, actual: Predictions) -> None:
    for name, values in expected.items():
        other = actual[name]
        if values.shape != other.shape or values.dtype != other.dtype:
            raise UserError(
                f"the exported file answers {name} as {other.dtype} {list(other.shape)}, and torch "
                f"as {values.dtype} {list(values.shape)}; nothing was published"
            )
