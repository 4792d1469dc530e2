"""Records metrics and pictures in MLflow or in CSV files. Nothing here imports torch.

Tracking never stops a training. If the server cannot be reached at the start, an error says so
before the training begins. If it fails later, a warning says so once, and entries wait in memory
until it is back; it is tried once a minute, for a second at most.
"""

import csv
import logging
import os
import re
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from hashlib import sha256
from itertools import count
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from nano_cv.config.options import flatten
from nano_cv.errors import UserError, first_line, why_unreachable
from nano_cv.evaluation.tables import CSV, write_table
from nano_cv.files import locked
from nano_cv.metadata import Metadata, git_commit

if TYPE_CHECKING:  # it takes a second to load
    from mlflow.entities import Metric

PAUSE = 60.0  # seconds between two tries of a lost server
MAX_KEY_LENGTH = 250  # characters of a key; MLflow's limit
OF_UI = "http://127.0.0.1:5000"  # default address of `mlflow ui`
# Without this tag, MLflow may open the experiment on its page for language models.
KIND = {"mlflow.experimentKind": "custom_model_development"}
CHAMPION = "champion"  # alias of the registered version with the best validation metric
log = logging.getLogger(__name__)


class Logger:
    """The record of a run. This base class records nothing; it is used without tracking.

    A logger is a context manager, which ends the record.
    """

    run_id = ""  # of MLflow; empty for other loggers

    def log_params(self, config: DictConfig) -> None:
        """Log the whole configuration of the run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log the figures of a step."""

    def log_file(self, file: Path) -> None:
        """Log a file in the folder of the run."""

    def log_model(self, file: Path, metadata: Metadata, card: str, mode: str) -> None:
        """Log an ONNX file, and register it as the next version of the model.

        `card` describes the version in Markdown; `mode` is `max` if a higher validation metric is
        better, else `min`.
        """

    def finish(self, status: str) -> None:
        """Record how the run ended: `FINISHED`, `FAILED` or `KILLED`."""

    def advice(self) -> dict[str, str]:
        """Lines for the summary at the end of a script, by name."""
        return {}

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        killed = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.finish("FINISHED" if kind is None else "KILLED" if killed else "FAILED")


class Csv(Logger):
    """Writes `metrics.csv` and `hparams.yaml` into `csv/version_<n>`, a new one when resumed."""

    def __init__(self, folder: Path) -> None:
        versions = (folder / "csv" / f"version_{number}" for number in count())
        self.folder = next(version for version in versions if not version.exists())
        self.folder.mkdir(parents=True)
        self.rows: list[dict[str, float]] = []
        self.columns: list[str] = []

    def log_params(self, config: DictConfig) -> None:
        """Write `hparams.yaml`."""
        OmegaConf.save(config, self.folder / "hparams.yaml", resolve=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Append a row; a new metric is a new column, for which the whole file is written anew."""
        row = {**metrics, "step": step}
        self.rows.append(row)
        table = self.folder / "metrics.csv"
        if row.keys() <= set(self.columns):
            with table.open("a", **CSV) as file:
                csv.DictWriter(file, self.columns).writerow(row)
            return
        self.columns = sorted(row.keys() | set(self.columns))
        write_table(table, [dict.fromkeys(self.columns, "") | row for row in self.rows])


class MLflow(Logger):
    """A run in MLflow, in a database or on a tracking server, which may fail and come back.

    A missing experiment is created. If a run with the same tag `folder` exists, it is continued.
    """

    def __init__(self, uri: str, experiment: str, name: str, tags: Mapping[str, str]) -> None:
        import mlflow
        from mlflow.tracking.context.registry import resolve_tags

        mlflow.set_tracking_uri(uri)
        self.uri, self.folder = uri, Path(tags["folder"])
        self.metrics: list[Metric] = []  # not delivered yet
        self.calls: deque[Callable[[], Any]] = deque()  # not delivered yet
        self.lost: float | None = None  # monotonic time of the last failure; None: all is well
        self.refused = 0  # number of entries that the server did not take
        self.client = mlflow.MlflowClient(uri)
        record = self.client.get_experiment_by_name(experiment)
        number = (
            record.experiment_id if record else self.client.create_experiment(experiment, tags=KIND)
        )
        runs = self.client.search_runs([number], f'tags.folder = "{tags["folder"]}"', max_results=1)
        self.resumed, self.experiment_id = bool(runs), number
        run = runs[0] if runs else self.client.create_run(number, None, resolve_tags(tags), name)
        self.run_id = run.info.run_id

    def log_params(self, config: DictConfig) -> None:
        """Log parameters; not if the run is resumed, because MLflow refuses changes."""
        from mlflow.entities import Param

        values: Any = OmegaConf.to_container(config, resolve=True)
        params = [
            Param(key(name), str(value).encode(errors="backslashreplace").decode()[:250])
            for name, value in flatten(values, "/").items()
        ]
        if not self.resumed:
            self._call(self.client.log_batch, self.run_id, params=params)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics; `key` makes their names."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.metrics += [Metric(key(name), value, now, step) for name, value in metrics.items()]
        self._deliver()

    def log_file(self, file: Path) -> None:
        """Store a file with the run, in the same subfolder as in the folder of the run."""
        place = str(file.parent.relative_to(self.folder)).removeprefix(".")
        self._call(self.client.log_artifact, self.run_id, str(file), place)

    def log_model(self, file: Path, metadata: Metadata, card: str, mode: str) -> None:
        """Register with signature; the version with the best metric gets the alias `champion`."""
        self._call(self._register, file, metadata, card, mode)

    def finish(self, status: str) -> None:
        """Set the state of the run, after a last try to deliver the entries that wait."""
        self._call(self.client.set_terminated, self.run_id, status)
        if self.lost is not None:
            self.lost -= PAUSE
            self._deliver()
        if missing := self._missing():
            log.warning("MLflow lacks %d entries of this run", missing)

    def advice(self) -> dict[str, str]:
        """The address of the page of this run; for a database, also the command that shows it."""
        if self._missing():
            return {}
        page = f"#/experiments/{self.experiment_id}/runs/{self.run_id}"
        if self.uri.startswith("http"):
            address = re.sub("//[^/]*@", "//", self.uri)  # a password is not printed
            return {"MLflow run": f"{address.rstrip('/')}/{page}"}
        command = shlex.join(["mlflow", "ui", "--backend-store-uri", self.uri])
        return {"MLflow run": f"{OF_UI}/{page}", "after": command}

    def _missing(self) -> int:
        """The number of entries that the server does not have."""
        return len(self.metrics) + len(self.calls) + self.refused

    def _call(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        self.calls.append(partial(call, *arguments, **options))
        self._deliver()

    def _deliver(self) -> None:
        """Send waiting entries, metrics first; return at once while the server is lost."""
        waited = self._missing()
        if self.lost is not None:
            if time.monotonic() - self.lost < PAUSE:
                return
            self.lost = time.monotonic()
            if not self._answers():
                return
        while self.metrics or self.calls:
            sent = len(self.metrics)
            try:
                if sent:
                    self.client.log_batch(self.run_id, metrics=self.metrics)
                else:
                    self.calls[0]()
            except Exception as error:  # each kind of store has its own exceptions
                if self.lost is None and not self.refused:  # warned only once
                    log.warning("MLflow failed; going on without tracking: %s", first_line(error))
                if self.lost is None or not self._answers():
                    self.lost = time.monotonic()
                    return
                self.refused += sent or 1  # the server answers, and does not take this
            if sent:
                self.metrics.clear()
            else:
                self.calls.popleft()
        if self.lost is not None and not self.refused:
            log.info("MLflow is back: %d entries that waited were delivered", waited)
        self.lost = None

    def _answers(self) -> bool:
        # MLflow's own client would try for half a minute.
        if self.uri.startswith("http") and why_unreachable(_health_page(self.uri), seconds=1):
            return False
        try:
            self.client.get_run(self.run_id)
        except Exception:
            return False
        return True

    def _register(self, file: Path, metadata: Metadata, card: str, mode: str) -> None:
        import mlflow
        import onnx
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        def schema(values: Iterable[onnx.ValueInfoProto]) -> Schema:
            specs: list[Any] = []
            for value in values:
                tensor = value.type.tensor_type
                shape = [dim.dim_value or -1 for dim in tensor.shape.dim]
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
                specs.append(TensorSpec(dtype, shape, value.name))
            return Schema(specs)

        for noisy in ("mlflow.tracking._model_registry.client", "mlflow.store.model_registry"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        model, name = onnx.load(file), key(metadata.name, r"\w -")
        with mlflow.start_run(run_id=self.run_id):
            logged = mlflow.onnx.log_model(
                model,
                name=name,
                registered_model_name=name,
                signature=ModelSignature(schema(model.graph.input), schema(model.graph.output)),
                # Without this, MLflow would run the model in another process to list its imports.
                pip_requirements=["onnxruntime", "onnx", "numpy"],
            )
        version = str(logged.registered_model_version)
        self.client.update_model_version(name, version, card)
        metric, score = next(iter(metadata.metrics.items()), ("", nan))
        if isnan(score):
            log.info("%s: no alias '%s', for the weights have no figure", metadata.name, CHAMPION)
            return
        metric = key(metric)
        known = self.client.search_model_versions(f"name = '{name}'")
        others = [float(older.tags[metric]) for older in known if metric in older.tags]
        self.client.set_model_version_tag(name, version, metric, str(score))
        choose = max if mode == "max" else min
        if score == choose([score, *others]):  # of equal scores, the newest
            self.client.set_registered_model_alias(name, CHAMPION, version)


def make_logger(config: DictConfig, folder: Path, job: str, data_hash: str = "") -> Logger:
    """Make the logger named by `logger=mlflow|csv|none`; a resumed run continues its record.

    `job` is `train`, `infer`, ...; `data_hash` is the hash of the data set, if one is used.

    Raises:
        UserError: the tracking server or database cannot be used.
    """
    logger = Logger()
    if config.logger.name == "csv":
        logger = Csv(folder)
    elif config.logger.name == "mlflow":
        tags = {"job": job, "folder": str(folder), "commit": git_commit(), "data_hash": data_hash}
        # Predictions and exports have experiments of their own, so that they hide no training.
        experiment = config.logger.experiment + ("" if job == "train" else f" {job}")
        name = f"{job} {config.model.name}_{config.data.name} {time.strftime('%H:%M')}"
        if folder.name.isdecimal():  # the number of a run in its sweep
            name += f" run {folder.name}"
        logger = _mlflow(config.logger.uri, experiment, name, tags)
    logger.log_params(config)
    return logger


def key(name: str, allowed: str = r"\w/. -") -> str:
    """The key of a metric, parameter or model in MLflow: `C++` becomes `C_x2B__x2B_`.

    Different names have different keys. `_x2B_` stands for the character with this hexadecimal
    number, as in SQL/XML. Escaped are characters that MLflow refuses, dots and slashes beside
    another or at an end, which MLflow takes for paths, blanks at an end, and `_` before text that
    looks like an escape. The end of a key of more than 250 characters, MLflow's limit, becomes a
    digest; `metrics.json` has the whole names.
    """
    escaped = re.sub(
        rf"[^{allowed}]|_(?=x[0-9A-F]*_)|(?<![^/.])[/.]|[/.](?![^/.])|^ | $",
        lambda match: f"_x{ord(match[0]):X}_",
        name,
    )
    if len(escaped) > MAX_KEY_LENGTH:
        digest = sha256(escaped.encode(errors="surrogatepass")).hexdigest()
        return f"{escaped[: MAX_KEY_LENGTH - 20]}_x_{digest[:16]}"
    return escaped or "_x_"


def _mlflow(uri: str, experiment: str, name: str, tags: dict[str, str]) -> MLflow:
    for noisy in ("alembic", "mlflow.store.db.utils"):  # what fails is said here in one line
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    if uri.startswith(("http://", "https://")):
        if reason := why_unreachable(_health_page(uri)):
            raise UserError(
                f"logger.uri={uri}: the tracking server does not answer ({reason}); "
                "start it, or add logger=csv or logger=none"
            )
        # By default MLflow waits for a dead server 7 times 120 s, which would look like a hang.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    database = uri.startswith("sqlite:///") and Path(uri.removeprefix("sqlite:///").split("?")[0])
    try:
        # The runs of a sweep may start together, and only one of them can create the tables.
        with locked(Path(database)) if database else nullcontext():
            return MLflow(uri, experiment, name, tags)
    except Exception as error:  # each kind of store has its own exceptions
        raise UserError(
            f"logger.uri={uri}: cannot be used for tracking ({first_line(error)[:200]}); "
            "mend it, or add logger=csv or logger=none"
        ) from error


def _health_page(uri: str) -> str:
    return f"{uri.rstrip('/')}/health"
