"""Where metrics and pictures go: MLflow, CSV files or nowhere. Nothing here imports torch.

Tracking serves the training, never the other way: a server that cannot be reached is reported
before the training starts. When one dies later, that is reported once, and what is logged waits in
memory until the server is back; it is asked for once a minute, for a second at most.
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
from itertools import count, islice
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from nano_cv.config.options import flatten
from nano_cv.errors import UserError, first_line, why_unreachable
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.tables import CSV, cell
from nano_cv.files import locked
from nano_cv.metadata import git_commit

if TYPE_CHECKING:  # it takes a second to load
    from mlflow import MlflowClient
    from mlflow.entities import Metric

PAUSE = 60.0  # seconds between two tries of a server that was lost
MOST_METRICS = 100_000  # that wait for a lost server; of more the oldest are given up,
MOST_CALLS = 200  # and of all else, pictures above all
AT_ONCE = 1000  # metrics in a request: MLflow takes no more
LONGEST = 250  # characters of a key; MLflow takes no more
OF_UI = "http://127.0.0.1:5000"  # where `mlflow ui` is, if not told otherwise
# Without this tag MLflow guesses, and may open an experiment on its page for language models.
KIND = {"mlflow.experimentKind": "custom_model_development"}
CHAMPION = "champion"  # alias of the registered version with the best validation metric
log = logging.getLogger(__name__)


class Logger:
    """The record of a run, here of a run without tracking: nothing is kept.

    Subclasses keep what is logged. As a context manager, a logger ends the record.
    """

    run_id = ""  # MLflow's, if the run is tracked there

    def log_params(self, config: DictConfig) -> None:
        """Log the whole configuration of the run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log the figures of a step."""

    def log_drawing(self, name: str, drawing: Drawing) -> None:
        """Log a picture as `<name>.png`."""

    def log_file(self, file: Path) -> None:
        """Log a file."""

    def log_model(
        self, file: Path, name: str, card: str, metric: str, score: float, mode: str
    ) -> None:
        """Log an ONNX file, and register it as the next version of the model `name`.

        `card` describes the version in Markdown. `score` is the value of the validation `metric`,
        NaN where it cannot be known; `mode` says whether more of it is better, `max`, or `min`.
        """

    def finish(self, status: str) -> None:
        """Say how the run ended: `FINISHED`, `FAILED` or `KILLED`."""

    def advice(self) -> dict[str, str]:
        """Lines for the summary at the end of a script, by name."""
        return {}

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        killed = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.finish("FINISHED" if kind is None else "KILLED" if killed else "FAILED")


class Csv(Logger):
    """`metrics.csv` and `hparams.yaml` in csv/version_<n> of the run; each resumption adds one."""

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
        """Add a row; a new metric is a new column, so the whole file is written anew."""
        row = {**metrics, "step": step}
        self.rows.append(row)
        known = row.keys() <= set(self.columns)
        self.columns = sorted(row.keys() | set(self.columns))
        with (self.folder / "metrics.csv").open("a" if known else "w", **CSV) as file:
            writer = csv.DictWriter(file, self.columns)
            if not known:
                writer.writerow({name: cell(name) for name in self.columns})
            writer.writerows([row] if known else self.rows)


class MLflow(Logger):
    """A run in MLflow, in a database or on a tracking server, which may fail and come back.

    The experiment is made if it is not there. A run whose tag `folder` is the same is continued.
    """

    def __init__(self, uri: str, experiment: str, name: str, tags: Mapping[str, str]) -> None:
        import mlflow
        from mlflow.tracking.context.registry import resolve_tags

        mlflow.set_tracking_uri(uri)
        self.uri = uri
        self.metrics: deque[Metric] = deque(maxlen=MOST_METRICS)  # to be delivered, like the calls
        self.calls: deque[Callable[[], Any]] = deque(maxlen=MOST_CALLS)
        self.lost: float | None = None  # when the server was last missed, by a steady clock
        self.given_up = 0  # entries that will never be delivered
        self.client = mlflow.MlflowClient(uri)
        found = self.client.get_experiment_by_name(experiment)
        number = (
            found.experiment_id if found else self.client.create_experiment(experiment, tags=KIND)
        )
        runs = self.client.search_runs([number], f'tags.folder = "{tags["folder"]}"', max_results=1)
        self.resumed, self.experiment_id = bool(runs), number
        run = runs[0] if runs else self.client.create_run(number, None, resolve_tags(tags), name)
        self.run_id = run.info.run_id

    def log_params(self, config: DictConfig) -> None:
        """Log parameters, unless the run is resumed: MLflow refuses to change any."""
        from mlflow.entities import Param

        values: Any = OmegaConf.to_container(config, resolve=True)
        params = [
            Param(key(name), str(value).encode(errors="backslashreplace").decode()[:250])
            for name, value in flatten(values, "/").items()
        ]
        for start in range(0, 0 if self.resumed else len(params), 100):  # MLflow's most at once
            self._call(self.client.log_batch, self.run_id, params=params[start : start + 100])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics under their names, see `key`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(key(name), value, now, step) for name, value in metrics.items()]
        self.given_up += max(0, len(self.metrics) + len(entries) - MOST_METRICS)
        self.metrics += entries
        self._deliver()

    def log_drawing(self, name: str, drawing: Drawing) -> None:
        """Store a picture as `<name>.png` with the run."""
        self._call(self.client.log_image, self.run_id, drawing, f"{name}.png")

    def log_file(self, file: Path) -> None:
        """Store a file with the run."""
        self._call(self.client.log_artifact, self.run_id, str(file))

    def log_model(
        self, file: Path, name: str, card: str, metric: str, score: float, mode: str
    ) -> None:
        """With its signature; the version with the best score gets the alias `champion`."""
        name = key(name, r"\w -")
        self._call(_register, self.client, self.run_id, file, name, card, metric, score, mode)

    def finish(self, status: str) -> None:
        """Set the state of the run, after a last try to deliver the entries that wait."""
        self._call(self.client.set_terminated, self.run_id, status)
        if self.lost is not None:
            self.lost -= PAUSE
            self._deliver()
        if waiting := len(self.metrics) + len(self.calls) + self.given_up:
            log.warning("MLflow lacks %d entries of this run", waiting)

    def advice(self) -> dict[str, str]:
        """Where the page of this run is; of a database, also the command that shows it."""
        if self.metrics or self.calls or self.given_up:
            return {}
        page = f"#/experiments/{self.experiment_id}/runs/{self.run_id}"
        if self.uri.startswith("http"):
            address = re.sub("//[^/]*@", "//", self.uri)  # a password is not printed
            return {"MLflow run": f"{address.rstrip('/')}/{page}"}
        command = shlex.join(["mlflow", "ui", "--backend-store-uri", self.uri])
        return {"MLflow run": f"{OF_UI}/{page}", "after": command}

    def _call(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        self.given_up += len(self.calls) == MOST_CALLS
        self.calls.append(partial(call, *arguments, **options))
        self._deliver()

    def _deliver(self) -> None:
        """Send waiting entries in their order; while the server is away, return at once."""
        waited = len(self.metrics) + len(self.calls)
        if self.lost is not None:
            if time.monotonic() - self.lost < PAUSE:
                return
            self.lost = time.monotonic()
            if not self._answers():
                return
        while self.metrics or self.calls:
            batch = list(islice(self.metrics, AT_ONCE))
            try:
                if batch:
                    self.client.log_batch(self.run_id, metrics=batch)
                else:
                    self.calls[0]()
            except Exception as error:  # a client fails in as many ways as there are stores
                if self.lost is None and not self.given_up:  # else it has been said
                    log.warning("MLflow failed; going on without tracking: %s", first_line(error))
                if self.lost is None or not self._answers():
                    self.lost = time.monotonic()
                    return
                self.given_up += len(batch) or 1  # it answers, and has refused this twice
            for _ in batch:
                self.metrics.popleft()
            if not batch:
                self.calls.popleft()
        if self.lost is not None and not self.given_up:
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


def make_logger(config: DictConfig, folder: Path, job: str, data_hash: str = "") -> Logger:
    """Make the logger named by `logger=mlflow|csv|none`; a resumed run continues its record.

    `job` is `train`, `infer`, ...; `data_hash` is that of the data set, if one is used.

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
    """The key of a metric, parameter or model in MLflow: `C++` is `C_x2B__x2B_`, as in SQL/XML.

    Any name has a key of its own, and `_x2B_` means the character of that hexadecimal number, so
    that the name can be read back. Escaped is what MLflow does not allow (colons on Windows), what
    is part of a path that leads elsewhere (`..`, `//`, slashes at the ends), blanks at an end, and
    `_` where it would look like such an escape. Of more than 250 characters, MLflow's most, the
    last become a digest; `metrics.json` has them whole.
    """
    paths = r"^/|/(?=/|$)|^\.(?=\.)|(?:(?<=/)|^)\.(?=\.?(?:/|$))|(?<=/\.)\.(?=/|$)"
    escaped = re.sub(
        rf"[^{allowed}]|_(?=x[0-9A-F]*_)|{paths}|^ | $",
        lambda found: f"_x{ord(found[0]):X}_",
        name,
    )
    if len(escaped) > LONGEST:
        digest = sha256(escaped.encode(errors="surrogatepass")).hexdigest()
        return f"{escaped[: LONGEST - 20]}_x_{digest[:16]}"
    return escaped or "_x_"


def _register(
    client: "MlflowClient",
    run_id: str,
    file: Path,
    name: str,
    card: str,
    metric: str,
    score: float,
    mode: str,
) -> None:
    import mlflow
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    model = onnx.load(file)

    def schema(tensors: Iterable[onnx.ValueInfoProto]) -> Schema:
        specs: list[Any] = []
        for tensor in tensors:
            kind = tensor.type.tensor_type
            shape = [dim.dim_value or -1 for dim in kind.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            specs.append(TensorSpec(dtype, shape, tensor.name))
        return Schema(specs)

    for noisy in ("mlflow.tracking._model_registry.client", "mlflow.store.model_registry"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.onnx.log_model(
            model,
            name=name,
            registered_model_name=name,
            signature=ModelSignature(schema(model.graph.input), schema(model.graph.output)),
            # named, for else MLflow starts the model in a process of its own to see what it imports
            pip_requirements=["onnxruntime", "onnx", "numpy"],
        )
    version, own = str(logged.registered_model_version), key(metric)
    client.update_model_version(name, version, card)
    if isnan(score):
        return
    known = client.search_model_versions(f"name = '{name}'")
    others = [float(one.tags[own]) for one in known if own in one.tags]
    client.set_model_version_tag(name, version, own, str(score))
    choose = max if mode == "max" else min
    if score == choose([score, *others]):  # of equals, the newest
        client.set_registered_model_alias(name, CHAMPION, version)


def _mlflow(uri: str, experiment: str, name: str, tags: dict[str, str]) -> MLflow:
    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if uri.startswith(("http://", "https://")):
        if reason := why_unreachable(_health_page(uri)):
            raise UserError(
                f"logger.uri={uri}: the tracking server does not answer ({reason}); "
                "start it, or add logger=csv or logger=none"
            )
        # MLflow's own patience with a dead server, 7 times 120 s, would look like a hang.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    database = uri.startswith("sqlite:///") and Path(uri.removeprefix("sqlite:///").split("?")[0])
    try:
        # The runs of a sweep may start together, and only one of them can make the tables.
        with locked(Path(database)) if database else nullcontext():
            return MLflow(uri, experiment, name, tags)
    except Exception as error:  # as many kinds as there are stores
        raise UserError(
            f"logger.uri={uri}: cannot be used for tracking ({first_line(error)}); "
            "mend it, or add logger=csv or logger=none"
        ) from error


def _health_page(uri: str) -> str:
    return f"{uri.rstrip('/')}/health"
