"""What the camera looks down on: one height, one colour and one owner for every canvas pixel.

Everything (soil, pot, leaf, petal) is a height field seen from straight above, painted from the
bottom up. One pass of light over the finished height field then shades and shadows it all alike.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tools.render_flowers.noise import Field

GROUND, BLOSSOM = 0, -1  # owners; the leaves own 1, 2, 3...


class Spot(NamedTuple):
    """Some pixels of the canvas: their indices and their place relative to some origin."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    x: Field
    y: Field

    def where(self, inside: NDArray[np.bool_]) -> "Spot":
        """Keep the pixels for which `inside` holds."""
        return Spot(self.rows[inside], self.columns[inside], self.x[inside], self.y[inside])


@dataclass
class Scene:
    """Buffers of one picture, each float64 `[H, W]` unless noted; lengths are canvas pixels."""

    height: Field
    albedo: Field  # [H, W, 3], linear light, 0..1
    gloss: Field  # strength of the highlight, 0..1
    clear: Field  # share of the light that shines through, 0..1
    owner: NDArray[np.int64]

    def spot(self, x: float, y: float, reach_x: Field, reach_y: Field) -> Spot:
        """All canvas pixels of the box around some points, given relative to (`x`, `y`)."""
        tall, wide = self.height.shape
        top, bottom = np.clip([y + reach_y.min(), y + reach_y.max() + 1], 0, tall).astype(np.int64)
        left, right = np.clip([x + reach_x.min(), x + reach_x.max() + 1], 0, wide).astype(np.int64)
        grid = np.mgrid[top:bottom, left:right]
        rows, columns = grid[0].ravel(), grid[1].ravel()
        return Spot(rows, columns, columns - x, rows - y)

    def paint(
        self, spot: Spot, height: Field, albedo: Field, gloss: float, clear: float, owner: int
    ) -> None:
        """Cover the pixels of `spot` with a surface: heights `[N]`, colours `[N, 3]`."""
        place = (spot.rows, spot.columns)
        self.height[place] = height
        self.albedo[place] = albedo
        self.gloss[place] = gloss
        self.clear[place] = clear
        self.owner[place] = owner
