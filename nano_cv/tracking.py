"""Where metrics and pictures go: MLflow, CSV files or nowhere.

Tracking serves the training, never the other way: a server that cannot be reached is reported
before the training starts, and one that dies later is reported once and done without.
"""

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger

from nano_cv.contract import git_commit
from nano_cv.drawing import Drawing
from nano_cv.errors import UserError

log = logging.getLogger(__name__)


class MLflow(MLFlowLogger):
    """Lightning's MLflow logger, which here may fail without taking the training along."""

    failed = False
    resumed = False

    def log_metrics(self, *arguments: Any, **options: Any) -> None:
        """As in Lightning, unless tracking has failed."""
        self.attempt(super().log_metrics, *arguments, **options)

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """As in Lightning, but once only: MLflow refuses to change those of a resumed run."""
        if not self.resumed:
            self.attempt(super().log_hyperparams, *arguments, **options)

    def finalize(self, status: str = "success") -> None:
        """As in Lightning, unless tracking has failed."""
        self.attempt(super().finalize, status)

    def log_drawing(self, name: str, drawing: Drawing) -> None:
        """Store a picture as `<name>.png` with the run."""
        self.attempt(self.experiment.log_image, self.run_id, drawing, f"{name}.png")

    def log_file(self, file: Path) -> None:
        """Store a file with the run."""
        self.attempt(self.experiment.log_artifact, self.run_id, str(file))

    def attempt(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Call, or say once that tracking has ended."""
        if self.failed:
            return
        try:
            call(*arguments, **options)
        except Exception as error:  # a client fails in as many ways as there are stores
            self.failed = True
            log.warning("MLflow failed; going on without tracking: %s", _first_line(error))


def make_logger(config: DictConfig, folder: Path, job: str, data_hash: str = "") -> Logger | None:
    """The logger that `logger=mlflow|csv|none` asks for; a resumed run goes on in its own record.

    Args:
        config: of the script.
        folder: of this run.
        job: `train` or `infer`.
        data_hash: of the set, if one is used.

    Raises:
        UserError: the tracking server or database cannot be used.
    """
    if config.logger.name == "none":
        return None
    parameters = OmegaConf.to_container(config, resolve=True)
    if config.logger.name == "csv":
        logger: Logger = CSVLogger(str(folder), name="csv")
    else:
        tags = {"job": job, "folder": str(folder), "commit": git_commit(), "data_hash": data_hash}
        logger = _mlflow(config.logger.uri, config.logger.experiment, tags)
    logger.log_hyperparams(parameters)  # type: ignore[arg-type]  # a dictionary, as its keys are text
    return logger


def _mlflow(uri: str, experiment: str, tags: dict[str, str]) -> MLflow:
    from mlflow.tracking import MlflowClient

    for noisy in ("alembic", "mlflow.store.db.utils", "pytorch_lightning.loggers.mlflow"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if uri.startswith(("http://", "https://")):
        _reach(uri)
        # MLflow's own patience with a dead server, 7 times 120 s, would look like a hang.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        runs = found and client.search_runs(
            [found.experiment_id], f'tags.folder = "{tags["folder"]}"', max_results=1
        )
        run_id = runs[0].info.run_id if runs else None
        name = Path(tags["folder"]).parent.name
        logger = MLflow(experiment, name, uri, tags=tags, run_id=run_id)
        assert logger.run_id  # makes the run, and so finds out whether it can
        logger.resumed = run_id is not None
        return logger
    except Exception as error:  # as many kinds as there are stores
        raise UserError(
            f"logger.uri={uri}: cannot be used for tracking ({_first_line(error)}); "
            "mend it, or add logger=csv or logger=none"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _reach(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            pass
    except urllib.error.HTTPError:
        pass  # it answers, which is all that was asked
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"logger.uri={uri}: the tracking server does not answer ({reason}); "
            "start it, or add logger=csv or logger=none"
        ) from error
