"""The last thing that a script says: the metrics, and where everything lies."""

from collections.abc import Mapping
from pathlib import Path

from nano_cv.errors import printable
from nano_cv.tracking import Logger


def summarise(
    metrics: Mapping[str, float], places: Mapping[str, Path | str], logger: Logger
) -> None:
    """Print two columns; paths are relative to where the person stands."""
    rows = [(name, _short(value)) for name, value in metrics.items()]
    for name, place in places.items():
        here = Path.cwd()
        inside = isinstance(place, Path) and place.is_relative_to(here)
        rows.append((name, str(Path(place).relative_to(here) if inside else place)))
    run = Path(places["run"])
    written = sorted([*run.glob("*.png"), *run.glob("*.csv")])
    rows += [("", f"  {file.name}") for file in written]
    rows += logger.advice().items()
    width = max(len(name) for name, _ in rows)
    print(printable("\n".join(f"{name:<{width}}  {text}" for name, text in rows)))


def _short(value: float) -> str:
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
