"""The last thing that a script says: the metrics, and where everything lies."""

from collections.abc import Mapping
from pathlib import Path

from pytorch_lightning.loggers import Logger
from rich.console import Console
from rich.table import Table

from nano_cv.tracking import MLflow


def summarise(
    metrics: Mapping[str, float], places: Mapping[str, Path], logger: Logger | None
) -> None:
    """Print a table; paths are relative to where the person stands."""
    table = Table(show_header=False, box=None)
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    for name, path in places.items():
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        table.add_row(name, str(shown))
    folder = places["run"]
    for picture in sorted([*folder.glob("*.png"), *folder.glob("*.csv")]):
        table.add_row("", picture.name)
    if isinstance(logger, MLflow) and not logger.failed:
        uri = logger._tracking_uri
        table.add_row("MLflow", f"run {logger.run_id}; see it: mlflow ui --backend-store-uri {uri}")
    Console(soft_wrap=True).print(table)
