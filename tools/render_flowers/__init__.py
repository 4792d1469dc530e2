"""Renders nano-cv's default data set, "flowers": potted rosette plants seen from above.

`render` makes one plant in memory, `write` saves it; `python -m tools.render_flowers` writes
the whole set. NumPy and Pillow only, float64 throughout, so every processor makes the same pixels.
"""

from tools.render_flowers.plant import Plant, render, write

__all__ = ["Plant", "render", "write"]
