"""Scores of the runs of a sweep: `scores.json` in each run's folder. No torch."""

import json
import logging
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from nano_cv.evaluation.terminal import print_rows, summarise
from nano_cv.evaluation.tracking import Logger
from nano_cv.files import write_whole

NAME = "scores.json"
log = logging.getLogger(__name__)


class Scores(NamedTuple):
    """The metric that chooses the best epoch of a run."""

    metric: str  # such as `val/accuracy`
    mode: str  # `max` if a higher metric is better, else `min`
    values: list[float]  # one per epoch
    pruned: bool = False  # whether the run was stopped because the others were better

    @property
    def gains(self) -> list[float]:
        """The values, negated for `min`, so that higher is better; NaN is minus infinity."""
        sign = 1 if self.mode == "max" else -1
        return [-math.inf if math.isnan(value) else sign * value for value in self.values]

    @property
    def best(self) -> float:
        """The best value."""
        return self.values[self.gains.index(max(self.gains))]


def write(scores: Scores, run: Path) -> None:
    """Write `scores.json` into the folder of a run, whole or not at all."""
    write_whole(run / NAME, json.dumps(scores._asdict()))


def read(folder: Path) -> dict[Path, Scores]:
    """The scores of a run, or of all runs of a sweep, by their folders."""
    files = sorted(folder.rglob(NAME))
    return {file.parent: Scores(**json.loads(file.read_text())) for file in files}


def pruned(run: Path) -> bool:
    """Whether the run in this folder was stopped because the others were better."""
    return any(scores.pruned for scores in read(run).values())


def count_as_worst(run: Path) -> None:
    """Write NaN in place of the scores of a run that has diverged, with a warning."""
    log.warning("the training has diverged, and counts as the worst run of its sweep")
    for scores in read(run).values():
        write(scores._replace(values=[math.nan] * len(scores.values)), run)


def falls_behind(own: Scores, others: Sequence[Scores], siblings: int) -> float | None:
    """Median of the other runs at this run's epoch, if this run's best value is worse; else None.

    This is the median stopping rule of Golovin et al. 2017 ("Google Vizier") in the form of
    Optuna's `MedianPruner`; but runs that have not ended count too, because when several run at
    once, few have ended. Runs with another metric do not count. `siblings` other runs must have
    reached this epoch.
    """
    epoch = len(own.values)
    reached = [
        other.gains[epoch - 1]
        for other in others
        if other[:2] == own[:2] and len(other.values) >= epoch
    ]
    if len(reached) < siblings:
        return None
    middle, best = median(reached), max(own.gains)
    if best >= middle or math.isclose(best, middle, rel_tol=1e-6):  # as float32 they differ
        return None
    return middle if own.mode == "max" else -middle


class Best(Callback):
    """Hydra callback that reports all runs of a sweep, and the command to repeat the best."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Report the runs that have scores; the exit status is 1 if others have failed."""
        folder = Path(config.hydra.sweep.dir).absolute()
        runs = read(folder)
        failed = len([*folder.glob("*/.hydra")]) - len(runs)
        if runs:
            _report(config.hydra, runs, failed)
        if failed:
            sys.exit(1)


def _report(config: DictConfig, runs: Mapping[Path, Scores], failed: int) -> None:
    """Print a row per run, the best first; then the best run and its settings."""
    space = [f"{key}={value}" for key, value in (config.sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*space, *config.overrides.task])
    several = {override.get_key_element(): override.is_sweep_override() for override in parsed}
    swept = [key for key, is_swept in several.items() if is_swept]  # a typed key replaces a range
    lines: Any = {run: OmegaConf.load(run / ".hydra" / "overrides.yaml") for run in runs}
    ordered = sorted(runs, key=lambda run: max(runs[run].gains), reverse=True)
    rows, best = [], ordered[0]
    for run in ordered:
        scores = runs[run]
        typed = {key: value for key, _, value in (line.partition("=") for line in lines[run])}
        result = {"epochs": len(scores.values), "best": f"{scores.metric} {scores.best:.4f}"}
        rows.append({"run": run.name} | {key: typed.get(key, "") for key in swept} | result)
    print_rows(rows, [])
    if len({scores.metric for scores in runs.values()}) > 1:
        log.warning("the runs have different metrics, so none of them is said to be the best")
        return
    kept = [line for line in lines[best] if not line.startswith("sweep=")]
    folders = [
        f"--config-dir={source.path}"
        for source in config.runtime.config_sources
        if source.provider == "command-line"
    ]
    command = shlex.join(["python", f"{config.job.name}.py", *folders, *kept])
    stopped = sum(scores.pruned for scores in runs.values())
    summarise(
        {f"best {runs[best].metric}": runs[best].best},
        {key: value for key, value in rows[0].items() if key in swept}
        | {"train with it": command}
        | {"runs": f"{len(runs)}, {stopped} stopped early, {failed} failed", "run": best},
        Logger(),
    )
