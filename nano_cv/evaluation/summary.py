"""The last words of a script: the metrics, and where everything lies."""

from collections.abc import Mapping
from math import isnan
from pathlib import Path

from nano_cv.errors import printable
from nano_cv.evaluation.tracking import Logger

MOST = 20  # figures of a kind that are printed; of more,
WORST = 5  # only the worst


def summarise(
    metrics: Mapping[str, float], places: Mapping[str, Path | str], logger: Logger
) -> None:
    """Print two columns; paths are relative to where the person stands."""
    rows = _figures(metrics)
    for name, place in places.items():
        here = Path.cwd()
        inside = isinstance(place, Path) and place.is_relative_to(here)
        rows.append((name, str(Path(place).relative_to(here) if inside else place)))
    run = Path(places["run"])
    written = sorted(
        [*run.glob("*.png"), *run.glob("*.csv"), *run.glob("metrics.json"), *run.glob("*.md")]
    )
    rows += [("", f"  {file.name}") for file in written]
    rows += logger.advice().items()
    width = max(len(name) for name, _ in rows)
    print(printable("\n".join(f"{name:<{width}}  {text}" for name, text in rows)))


def _figures(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Names and values; of very many of a kind, such as `test/recall/<class>`, the worst."""
    kinds: dict[str, list[str]] = {}
    for name in metrics:
        kind = "/".join(name.split("/")[:2]) if name.count("/") > 1 else name
        kinds.setdefault(kind, []).append(name)
    rows = []
    for kind, names in kinds.items():
        few = len(names) <= MOST
        worst = sorted(names, key=lambda name: (isnan(metrics[name]), metrics[name]))[:WORST]
        rows += [(name, _short(metrics[name])) for name in (names if few else worst)]
        if not few:
            rows.append((f"{kind}/...", f"and {len(names) - WORST} more, in metrics.json"))
    return rows


def _short(value: float) -> str:
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
