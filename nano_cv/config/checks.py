"""Finds mistakes in a command line in half a second, before torch is loaded.

For a misspelt option, key or value, the message has the nearest spelling and what is allowed. A
model that the data set cannot serve and a folder that cannot be written to are refused as well.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nano_cv.config.options import Options, parse_override, read_flags
from nano_cv.config.processes import is_first_process, run_in, slurm_folder
from nano_cv.config.schema import find_problems
from nano_cv.errors import UserError
from nano_cv.metadata import check_name

WRITTEN_FOLDERS = {"train": ("runs", "weights"), "export_model": ("runs", "models")}  # in `paths`


def check(script: str, arguments: list[str]) -> list[str]:
    """Compose the configuration of a command line and refuse mistakes, without importing torch.

    Returns:
        Settings to add to the command line: those of the weights file, if one is read, and the
        folder of the run to resume, if a run is resumed.
    """
    flags = read_flags(arguments)
    if flags["question"]:
        return []
    options = Options(script, flags["config_dir"])
    overrides = [parse_override(text) for text in flags["overrides"]]
    _refuse_second_choices(options, overrides)
    try:
        added: list[str] = []
        if script in ("infer", "export_model"):
            from nano_cv.config.from_weights import settings_from_weights

            added = settings_from_weights(options, overrides)
            overrides += map(parse_override, added)

        # To check a sweep, a few runs are enough in which each value occurs.
        single = [override for override in overrides if not override.is_sweep_override()]
        config, own = options.compose(single)
        multirun = flags["multirun"] or own.mode == RunMode.MULTIRUN
        runs = [overrides]
        if multirun or len(single) < len(overrides):
            from nano_cv.config.space import find_space, sample_runs

            space = find_space(config, own, overrides) if multirun else []
            runs = list(sample_runs([*overrides, *space], multirun))
        configs = [check_run(options, run) for run in runs]

        if multirun and script == "train":
            _check_devices(configs[0])
            added.append("++hydra.callbacks.best._target_=nano_cv.training.sweep.Best")
        job_folder = slurm_folder() if script == "train" and not multirun else None
        if not (job_folder or configs[0].get("resume")):
            return added
        from nano_cv.config import resume

        if job_folder and not configs[0].resume:
            run = resume.runs_of(script, configs[0]) / job_folder
            begun = (run / "checkpoints" / "last.ckpt").exists()
            return [*added, run_in(run), *(["resume=true"] if begun else [])]
        if multirun:
            raise UserError("resume=true goes on with one run; leave out -m and sweep")
        folder = resume.find_run(script, configs[0])
        from nano_cv.files import BUSY, locked  # a tenth of a second that other starts save

        if is_first_process():  # which holds this lock while it trains
            with locked(folder / "checkpoints", BUSY):  # now, before Hydra writes into the folder
                pass
        defaults, _ = options.compose([each for each in single if each.key_or_group in options.own])
        resume.check_same(folder, configs[0], defaults)
    except MissingConfigException as error:
        from nano_cv.config.space import explain_missing

        raise explain_missing(error) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error)) from error
    return [*added, run_in(folder)]


def _refuse_second_choices(options: Options, overrides: Sequence[Override]) -> None:
    """Refuse two choices of a group, and say that the last of two values of a key is taken."""
    typed: dict[str, str] = {}
    for override in overrides:
        key, line = override.key_or_group, str(override.input_line)
        before, typed[key] = typed.get(key, line), line
        if before != line and key in options.own:
            raise UserError(f"{before} {line}: two choices of {key}; leave out one of them")
        if before != line and is_first_process():
            print(f"{before} {line}: {key} has two values; the last is taken", file=sys.stderr)


def check_run(options: Options, overrides: Sequence[Override]) -> DictConfig:
    """Compose the configuration of a single run and check it.

    Raises:
        UserError: a value has the wrong type or range, or two settings do not go together.
    """
    config, _ = options.compose(overrides)
    defaults, _ = options.compose([*filter(options.is_option, overrides)])
    if wrong := find_problems(options.script, config, defaults):
        raise UserError("\n".join(wrong))
    if "data" in options.own:
        check_name(f"{config.model.name}_{config.data.name}")
        _check_task(options, config, overrides)
        _check_root(config, overrides)
    if options.script == "train" and config.trainer.minutes and config.trainer.max_epochs:
        raise UserError(
            f"trainer.minutes={config.trainer.minutes} and trainer.max_epochs="
            f"{config.trainer.max_epochs} both set the length of the training; set one to null"
        )
    _check_writable(config, WRITTEN_FOLDERS.get(options.script, ("runs",)))
    return config


def task_name(config: Any) -> str:
    """Return the task, as `classification` for `nano_cv.tasks.classification.Classification`."""
    return str(config["model"]["task"]["_target_"]).rpartition(".")[2].lower()


def _check_task(options: Options, config: DictConfig, overrides: Sequence[Override]) -> None:
    """Check that the data set serves the model's task; the message names sets that would."""
    task = task_name(config)
    if task not in config.data.tasks:
        able = []
        for name in options.groups["data"]:
            other, _ = options.compose([parse_override(f"data={name}")])
            able += [name] if task in other.data.tasks else []
        data = _data(config, overrides)
        raise UserError(
            f"model={config.model.name} does {task}, and data={data} has targets for "
            f"{', '.join(config.data.tasks)} only. For {task}: {', '.join(able) or 'no set yet'}"
        )
    if config.data.balance != "none" and task not in ("classification", "segmentation"):
        raise UserError(
            f"data.balance={config.data.balance}: for classification and segmentation; with "
            f"model={config.model.name} leave it at none"
        )
    if task == "generation":
        for key in ("train_size", "crop", "detail"):
            if config.data[key] not in (None, 1):
                raise UserError(f"data.{key}: not for generators, which learn at their image_size")


def _data(config: DictConfig, overrides: Sequence[Override]) -> str:
    """Return the option of data that was typed, or else the name of the data set."""
    typed = [override.value() for override in overrides if override.key_or_group == "data"]
    return str([config.data.name, *typed][-1])


def _check_devices(config: DictConfig) -> None:
    """Refuse several devices in a sweep, as each further process would start the whole sweep."""
    if config.trainer.devices not in (1, "1") or config.trainer.num_nodes > 1:
        raise UserError(
            f"trainer.devices={config.trainer.devices}: in a sweep each run has one device; "
            "hydra/launcher=joblib trains several runs at the same time"
        )


def _check_root(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Check that the data set has a root, unless other images are given; only shards take a URL."""
    # With `???` in the YAML files, a data set could not take over the root of another set.
    asked = any(config.get(key) is not None for key in ("input", "labels", "count"))
    if not config.data.root and not asked:
        raise UserError(
            f"data.root: needed by data={_data(config, overrides)}; add data.root=FOLDER"
        )
    if "://" in str(config.data.root) and "shards" not in config.data.dataset._target_:
        raise UserError(
            f"data.root={config.data.root}: a store is read by data=shards only; "
            "shard.py writes shards"
        )


def _check_writable(config: Any, keys: Sequence[str]) -> None:
    """Check that the folders of `paths` can be written to, before a long training starts."""
    for key in keys:
        folder = Path(config["paths"][key]).absolute()
        existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=existing) as probe:
                probe.write(bytes(2**14))  # about as many bytes as Hydra writes at the start
        except OSError as error:
            raise UserError(
                f"paths.{key}={config['paths'][key]}: {existing} cannot be written to "
                f"({error.strerror}); mend that, or choose another folder"
            ) from error
