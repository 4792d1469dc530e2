"""The last thing that a script says: the metrics, and where everything lies."""

from collections.abc import Mapping
from pathlib import Path

from pytorch_lightning.loggers import Logger

from nano_cv.tracking import MLflow


def summarise(
    metrics: Mapping[str, float], places: Mapping[str, Path], logger: Logger | None
) -> None:
    """Print two columns; paths are relative to where the person stands."""
    rows = [(name, f"{value:.4f}") for name, value in metrics.items()]
    for name, path in places.items():
        here = Path.cwd()
        rows.append((name, str(path.relative_to(here) if path.is_relative_to(here) else path)))
    written = sorted([*places["run"].glob("*.png"), *places["run"].glob("*.csv")])
    rows += [("", f"  {file.name}") for file in written]
    if isinstance(logger, MLflow) and not logger.failed:
        rows.append(("MLflow run", str(logger.run_id)))
        rows.append(("to see it", f"mlflow ui --backend-store-uri {logger._tracking_uri}"))
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {text}" for name, text in rows))
