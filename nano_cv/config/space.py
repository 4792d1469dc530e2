"""Checks the search space of a sweep before the sweep starts.

`lr=1e-3,3e-4` tries two values, `lr=interval(1e-4, 1e-2)` searches a range. The search space is
read from `configs/sweep/`; keys on the command line replace it.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from nano_cv.errors import UserError, nearest

INSTALL = {  # how to install the optional plugins of Hydra
    "hydra/sweeper/optuna": "poetry install --extras optuna",
    "hydra/launcher/joblib": "poetry install --extras joblib",
    "hydra/launcher/submitit_local": "poetry install --extras submitit",
    "hydra/launcher/submitit_slurm": "poetry install --extras submitit",
}


def explain_missing(error: MissingConfigException) -> UserError:
    """Explain why an option does not exist: it is misspelt, or its plugin is not installed."""
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    if command := INSTALL.get(f"{group}/{option}"):
        return UserError(f"{group}={option} is not installed; type: {command}")
    known = {name.rpartition("/")[2] for name in INSTALL if name.rpartition("/")[0] == group}
    allowed = sorted(known.union(error.options or []))
    return UserError(
        f"{group}={option}: no such {group.rpartition('/')[2]}{nearest(option, allowed)} "
        f"Allowed: {', '.join(allowed)}"
    )


def find_space(config: DictConfig, own: DictConfig, typed: Sequence[Override]) -> list[Override]:
    """Return the sweeper's ranges, except for keys that the `typed` command line replaces.

    `own` is Hydra's own configuration.

    Raises:
        UserError: the sweeper or its launcher cannot work with these settings.
    """
    sweeper, keys = own.sweeper, {override.key_or_group for override in typed}
    lines = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    space = OverridesParser.create().parse_overrides(lines)
    added = [override for override in space if override.key_or_group not in keys]
    if "n_trials" in sweeper:
        _check_optuna(sweeper)
    if str(own.launcher._target_).endswith("SlurmLauncher") and not shutil.which("srun"):
        raise UserError(
            "hydra/launcher=submitit_slurm: there is no 'srun' on this machine; start the sweep "
            "where SLURM is, or in processes of this machine with hydra/launcher=submitit_local"
        )
    searches = not str(sweeper._target_).endswith("BasicSweeper")
    for override in [*typed, *added]:
        if override.is_interval_sweep():
            _check_interval(override, config, searches)
    return added


def sample_runs(overrides: Sequence[Override], multirun: bool) -> Iterator[list[Override]]:
    """Yield a few runs of a sweep to check, in which each value and end of a range occurs.

    Raises:
        UserError: a key has several values, but no sweep was requested.
    """
    parser, choices = OverridesParser.create(), []
    for override in overrides:
        if not override.is_sweep_override():
            choices.append([override])
            continue
        key, _, given = str(override.input_line).partition("=")
        if re.fullmatch(r"-?\d+,0\d+" if multirun else r"-?\d+,\d+", given):
            raise UserError(f"{key}={given}: a number has a point: {key}={given.replace(',', '.')}")
        if not multirun:
            said = f"{override.input_line}: several values; add -m to run each of them"
            if override.is_choice_sweep():
                several = f"a list is {key}=[{given}]"
                if key in ("input", "parity"):
                    several = f"several pictures are a folder or a pattern: {key}='photos/*.jpg'"
                said += f"; {several}, a text with commas '{key}=\"{given}\"'"
            raise UserError(said)
        values = [f"{override.get_key_element()}={value}" for value in _values(override)]
        choices.append(parser.parse_overrides(values))
    for number in range(max(map(len, choices), default=1)):
        yield [values[min(number, len(values) - 1)] for values in choices]


def _values(override: Override) -> list[str]:
    if override.is_discrete_sweep():
        return list(override.sweep_string_iterator())
    interval: Any = override.value()
    return [str(interval.start), str(interval.end)]


def _check_optuna(sweeper: DictConfig) -> None:
    if sweeper.n_trials < 1:
        raise UserError(f"hydra.sweeper.n_trials={sweeper.n_trials}: more than 0 is needed")
    if sweeper.n_jobs < 1:
        raise UserError(
            f"{sweeper.n_jobs} runs at once: 1 or more are needed, as in hydra.launcher.n_jobs=2 "
            "with hydra/launcher=joblib, or else in hydra.sweeper.n_jobs=2"
        )
    if sweeper.storage is not None:  # Optuna 2 cannot store studies with SQLAlchemy 2
        raise UserError(
            f"hydra.sweeper.storage={sweeper.storage}: a study is kept in memory only; leave it out"
        )


def _check_interval(override: Override, config: DictConfig, searches: bool) -> None:
    interval: Any = override.value()
    line, start, end = override.input_line, interval.start, interval.end
    if not searches:
        raise UserError(f"{line}: an interval needs a search; add sweep=optuna, or name the values")
    if start >= end or ("log" in interval.tags and start <= 0):
        raise UserError(f"{line}: the smaller number goes first, and with 'log' it is above 0")
    if isinstance(start, float) and isinstance(
        OmegaConf.select(config, override.key_or_group), int
    ):
        raise UserError(f"{line}: whole numbers are needed; type int(interval({start:g}, {end:g}))")
