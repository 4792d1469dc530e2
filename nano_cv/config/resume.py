"""Finds the run that `resume=` continues, and refuses settings that differ from the run's."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import AliasEvent, YAMLError, parse

from nano_cv.config.options import flatten
from nano_cv.errors import UserError, one_line

FIXED_KEYS = (  # keys, or prefixes of keys, that a resumed run must not change
    *("seed", "data.", "model.", "trainer.precision", "trainer.gradient_clip_val"),
    *("trainer.limit_train_batches", "trainer.limit_val_batches"),
    *("trainer.min_epochs", "trainer.min_steps"),  # they decide how long an epoch is
    "trainer.minutes",  # the first start has made a number of epochs of it
)
CHECKPOINT = "checkpoints/last.ckpt"  # in the folder of a run
LENGTH_KEY = "trainer.max_epochs"  # may be another number; with null, epochs have another length
# Exceptions from `FIXED_KEYS`. `data.dataset.` is one because the hash of the images shows whether
# other images are read.
MAY_CHANGE = ("data.root", "data.source", "data.cache", "data.workers", "data.dataset.")


def find_run(script: str, config: DictConfig) -> Path:
    """Find the folder of the run to resume.

    The run is named by `resume=FOLDER`, or else is the newest run of this model and data set. Time
    stamps decide, because the local time in the names of folders goes back an hour in autumn.

    Raises:
        UserError: there is no checkpoint, or the newest run has none.
    """
    folder = runs_of(script, config)
    checkpoints = list(folder.glob(f"*/{CHECKPOINT}"))
    if config.resume is not True:
        folder = Path(str(config.resume)).expanduser()
        checkpoints = list(folder.glob(CHECKPOINT))
    if not checkpoints:
        raise UserError(
            f"resume={_typed(config)}: no checkpoint in {folder}; start without resume=true"
        )
    last = max(checkpoints, key=_time_of)
    without = [path for path in folder.glob("*/.hydra") if not (path.parent / CHECKPOINT).exists()]
    begun = max(without, key=_time_of, default=last)
    found = last.parents[1]
    if config.resume is True and _time_of(begun) > _time_of(last):
        raise UserError(
            f"resume=true: {begun.parent} began after the last checkpoint of {found}, and has none "
            f"itself; start without resume=true, or go on with the older run: resume={found}"
        )
    return found


def _time_of(path: Path) -> tuple[int, Path]:
    return path.stat().st_mtime_ns, path


def runs_of(script: str, config: DictConfig) -> Path:
    """Return the folder with the runs of this model and data set."""
    return Path(config.paths.runs) / script / f"{config.model.name}_{config.data.name}"


def check_same(run: Path, config: DictConfig, defaults: DictConfig) -> None:
    """Refuse to resume with other settings than before: half of them would be ignored.

    Args:
        run: folder of the run.
        config: the configuration now.
        defaults: the configuration without typed settings. A setting that did not exist yet when
            the run began counts as its default; a setting that no longer exists is ignored.

    Raises:
        UserError: a setting differs, or the record of the settings is damaged.
    """
    file = run / ".hydra" / "config.yaml"
    if not file.exists():
        return
    try:
        text = file.read_text("utf-8")
        if any(isinstance(event, AliasEvent) for event in parse(text)):
            raise YAMLError("aliases are not read, as a few nested ones can fill the memory")
        first = _leaves(OmegaConf.create(text))
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise UserError(f"{file}: damaged ({one_line(error)[:200]}); start anew") from error
    now, default = _leaves(config), _leaves(defaults)
    for key in sorted(now.keys() | (first.keys() & default.keys())):
        if not (key.startswith(FIXED_KEYS) or key == LENGTH_KEY) or key.startswith(MAY_CHANGE):
            continue
        was, current = first.get(key, default.get(key, "not set")), now.get(key, "not set")
        # A limit of 1 is one batch, a limit of 1.0 is all batches, though 1 == 1.0.
        other_kind = "limit_" in key and isinstance(was, float) != isinstance(current, float)
        same = (was is None) == (current is None) if key == LENGTH_KEY else was == current
        if not same or other_kind:
            raise UserError(
                f"resume={_typed(config)}: {run} was started with {key}={was}, and now it is "
                f"{current}; give the same again, start anew without resume=true, or name another "
                "run: resume=FOLDER"
            )


def _typed(config: DictConfig) -> str:
    return "true" if config.resume is True else str(config.resume)


def _leaves(config: Any) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(config, resolve=True)
    return flatten(values)
