"""What is wrong with a command line, found in half a second: before torch is loaded.

A misspelt option, key or value is answered with the nearest spelling and what is allowed; so is a
model that the data set cannot serve, and a folder that cannot be written to.
"""

import json
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nano_cv.config.schema import problems
from nano_cv.config.space import missing, runs_of, space_of
from nano_cv.errors import UserError, listing, nearest, one_line
from nano_cv.metadata import NAME, check_name, read_metadata, weights_of

CONFIGS = Path(__file__).parents[2] / "configs"
FIXED = (  # what a resumed run must have as it was,
    *("seed", "data.", "model.", "trainer.precision", "trainer.gradient_clip_val"),
    *("trainer.limit_train_batches", "trainer.limit_val_batches"),
)
MAY_CHANGE = ("data.root", "data.source", "data.cache", "data.workers", "model.epochs")  # but these


def option_groups(folders: list[Path]) -> dict[str, list[str]]:
    """The option groups and the options of each, from the YAML files of `folders`."""
    groups: dict[str, list[str]] = {}
    files = [file for folder in folders for file in folder.glob("*/*.yaml")]
    for file in sorted(files, key=lambda file: file.parts[-2:]):
        groups.setdefault(file.parent.name, []).append(file.stem)
    return groups


def groups_of(config_name: str) -> list[str]:
    """The option groups that a script has, from the list of defaults in its YAML file."""
    defaults = OmegaConf.load(CONFIGS / f"{config_name}.yaml").defaults
    keys = [str(key) for item in defaults if item != "_self_" for key in item]
    return [key.split()[-1].partition("@")[0] for key in keys]  # without `optional` and the place


def check(config_name: str, arguments: list[str]) -> list[str]:
    """Raise a `UserError` for whatever is wrong with the command line; import no torch.

    Returns:
        What to add to the command line: the folder of the run to resume, if that was asked for, and
        the settings that are part of the weights, if those were named.
    """
    parsed, unknown = get_args_parser().parse_known_args(arguments)
    if unknown and not unknown[0].startswith("-"):
        raise UserError(
            f"{unknown[0]}: stands behind a flag; flags such as -m go before all settings"
        )
    if unknown:
        raise UserError(f"{unknown[0]}: no such flag; settings are given as KEY=VALUE, see --help")
    if parsed.help or parsed.hydra_help or parsed.info or parsed.shell_completion:
        return []
    folders = [CONFIGS] + ([Path(parsed.config_dir)] if parsed.config_dir else [])
    if not all(folder.is_dir() for folder in folders):
        raise UserError(f"--config-dir {parsed.config_dir}: no such folder")
    try:
        overrides = [_parse(given) for given in parsed.overrides]
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            compose = cache(partial(_compose, config_name, folders))
            added = _settings_of_weights(config_name, overrides, folders, compose)
            overrides += map(_parse, added)
            multirun, space = _sweep(config_name, overrides, parsed.multirun, compose)
            runs = runs_of([*overrides, *space], multirun)
            configs = [_check_run(config_name, run, folders, compose) for run in runs]
    except MissingConfigException as error:
        raise missing(error) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error)) from error
    if not (configs and configs[0].get("resume")):
        return added
    if multirun:
        raise UserError("resume=true goes on with one run; leave out -m and sweep")
    run = last_run(config_name, configs[0])
    groups = groups_of(config_name)
    chosen = [str(each.input_line) for each in overrides if each.key_or_group in groups]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        _check_same(run, configs[0], compose(*chosen))
    folder = str(run).replace("'", r"\'")
    return [*added, f"hydra.run.dir='{folder}'"]


def _settings_of_weights(
    config_name: str,
    overrides: Sequence[Override],
    folders: list[Path],
    compose: Callable[..., DictConfig],
) -> list[str]:
    """What `weights=FILE` says by itself: the model, its options, its size, and the data set.

    What was typed goes first; if it does not fit the weights, opening them will say so.

    Raises:
        UserError: no such weights, or no config for their model or set; says what to add.
    """
    given = {each.key_or_group: each.value() for each in overrides if not each.is_sweep_override()}
    file = given.get("weights")
    if not file or config_name not in ("infer", "export_model") or given.get("engine") == "triton":
        return []
    added = []
    if str(file).endswith(".onnx") and config_name == "infer" and "engine" not in given:
        added.append("engine=onnx")
    if added or given.get("engine") == "onnx":
        from nano_cv.evaluation.engines import Onnx

        metadata = Onnx(Path(str(file)).expanduser()).metadata
    else:
        metadata = read_metadata(weights_of(str(file)))
    groups = option_groups(folders)
    if "model" not in given:
        model = metadata.model
        if model not in groups["model"] and metadata.network.get("name") == model:
            model = "timm"  # which is called after its network
        if model not in groups["model"]:
            raise UserError(
                f"weights={file}: of model={model}, and there is no model/{model}.yaml; give the "
                "config that it was trained with: --config-dir=FOLDER, or +model=OPTION "
                f"model.name={model}"
            )
        given["model"] = model
        added.append(f"model={model}")
    option = str(given["model"])
    if option in groups["model"]:
        config = compose(f"model={option}")
        settings = {"model.image_size": metadata.image_size} | {
            f"model.task.network.{key}": value for key, value in metadata.network.items()
        }
        if metadata.model in (given.get("model.name"), config.model.name) or option == "timm":
            added += [
                f"++{key}={json.dumps(value, ensure_ascii=False)}"
                for key, value in settings.items()
                if key not in given and OmegaConf.select(config, key) != value
            ]
    if "data" not in given and "data.name" not in given:
        known = metadata.data in groups["data"]
        asked = any(given.get(key) is not None for key in ("input", "labels", "count"))
        if not (known or asked):
            raise UserError(
                f"weights={file}: trained on '{metadata.data}', which is no option of data; say "
                f"where its pictures are: +data=OPTION data.root=FOLDER data.name={metadata.data}"
                + (", or give others: input=FOLDER" if config_name == "infer" else "")
            )
        if NAME.fullmatch(metadata.data):
            added.append(f"{'data' if known else 'data.name'}={metadata.data}")
    return added


def _parse(given: str) -> Override:
    try:
        return OverridesParser.create().parse_override(given)
    except HydraException as error:
        key, sign, value = given.partition("=")
        quoted = shlex.quote(f"{key}={json.dumps(value, ensure_ascii=False)}")
        raise UserError(
            f"{given}: cannot be understood; "
            + (f"quote the value: {quoted}" if sign else "what is needed is KEY=VALUE, see --help")
        ) from error


def last_run(job: str, config: DictConfig) -> Path:
    """The run that `resume=` names, or the one of this model and data that last kept an epoch.

    By the time of the file, which no change of zone or to winter time turns back, as it does the
    local time in the names of folders.
    """
    given = config.resume
    runs = Path(config.paths.runs) / job / f"{config.model.name}_{config.data.name}"
    folder, found = runs, list(runs.glob("*/checkpoints/last.ckpt"))
    if given is not True:
        folder = Path(str(given)).expanduser()
        found = list(folder.glob("checkpoints/last.ckpt"))
    if not found:
        raise UserError(
            f"resume={_said(config)}: no checkpoint in {folder}; start without resume=true"
        )
    return max(found, key=lambda file: (file.stat().st_mtime_ns, file)).parents[1]


def _said(config: DictConfig) -> str:
    return "true" if config.resume is True else str(config.resume)


def _check_same(run: Path, config: DictConfig, defaults: DictConfig) -> None:
    """A run goes on with its own settings: half of others would be ignored.

    A setting that was not there when it was started counts as this version's default, and one that
    is not there any more does not count.
    """
    file = run / ".hydra" / "config.yaml"
    if not file.exists():
        return
    try:
        first = _flat(OmegaConf.load(file))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{file}: damaged ({one_line(error)[:200]}); start anew") from error
    now, default = _flat(config), _flat(defaults)
    for key in sorted(now.keys() | (first.keys() & default.keys())):
        # What reads the set may get another name; the hash of the pictures says if they differ.
        if not key.startswith(FIXED) or key in MAY_CHANGE or key.startswith("data.dataset."):
            continue
        was, given = first.get(key, default.get(key, "not set")), now.get(key, "not set")
        kinds = [isinstance(value, float) for value in (was, given)]  # 1 batch is not 1.0, all
        if was != given or ("limit_" in key and len(set(kinds)) > 1):
            raise UserError(
                f"resume={_said(config)}: {run} was started with {key}={was}, and now it is "
                f"{given}; give the same again, start anew without resume=true, or name another "
                "run: resume=FOLDER"
            )


def _flat(config: Any) -> dict[str, Any]:
    """`a.b.c` to its value, for each leaf of a configuration."""
    leaves: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))
        else:
            leaves[path] = node

    walk(OmegaConf.to_container(config, resolve=True), "")
    return leaves


def _compose(config_name: str, folders: list[Path], *lines: str, **options: bool) -> DictConfig:
    places = ",".join(f"file://{folder.resolve()}" for folder in folders[1:])
    return hydra.compose(config_name, [f"hydra.searchpath=[{places}]", *lines], **options)


def _sweep(
    config_name: str, overrides: list[Override], multirun: bool, compose: Callable[..., DictConfig]
) -> tuple[bool, list[Override]]:
    """Whether there are to be several runs, and what a search adds to the command line."""
    groups = groups_of(config_name)
    single = [override for override in overrides if not override.is_sweep_override()]
    chosen = [
        each
        for each in single
        if each.key_or_group.startswith("hydra/")
        or (each.key_or_group in groups and not each.is_delete())
    ]
    keys = [each for each in single if each.key_or_group.startswith("hydra.")]
    said = any(each.key_or_group.startswith(("hydra/", "sweep", "experiment")) for each in chosen)
    if not (multirun or said or keys):
        return False, []
    lines = [str(override.input_line) for override in chosen]
    for override in keys:
        if inside := override.key_or_group.partition("hydra.sweeper.params.")[2]:
            raise UserError(
                f"{override.input_line}: a range is set by the name of its key: {inside}="
            )
        added = override.is_add() or override.is_force_add()
        if override.key_or_group.startswith(("hydra.sweeper.", "hydra.launcher.")) and not added:
            _check_key(override, compose(*lines, return_hydra_config=True), {})
    lines += [str(override.input_line) for override in keys]
    config = compose(*lines, return_hydra_config=True)
    multirun = multirun or config.hydra.mode == RunMode.MULTIRUN
    return multirun, space_of(config, overrides) if multirun else []


def _check_run(
    config_name: str,
    overrides: list[Override],
    folders: list[Path],
    compose: Callable[..., DictConfig],
) -> DictConfig:
    groups = option_groups(folders)
    own = {name: options for name, options in groups.items() if name in groups_of(config_name)}
    chosen, keys = [], []  # what Hydra composes, and what is then set in it
    for override in overrides:
        name = override.key_or_group.split("@")[0]
        if name in groups and name not in own:
            raise UserError(
                f"{override.input_line}: {config_name}.py takes no {name}; what it takes is said "
                f"by: python {config_name}.py --help"
            )
        if name in own:
            if override.is_delete():
                raise UserError(
                    f"{override.input_line}: every run needs this; allowed: "
                    + ", ".join(f"{name}={option}" for option in groups[name])
                )
            given = override.value()
            for option in given if isinstance(given, list) else [given]:
                if option not in groups[name]:
                    raise UserError(
                        f"{name}={option}: no such {name}{nearest(str(option), groups[name])} "
                        f"Allowed: {', '.join(groups[name])}"
                    )
        if name in own or name.startswith("hydra"):
            chosen.append(str(override.input_line))
        else:
            keys.append(override)

    config = compose(*chosen).copy()
    for override in keys:
        if not (override.is_add() or override.is_force_add()):
            _check_key(override, config, own)
    # As Hydra itself would go on; to compose once more would take as long as all else here.
    ConfigLoaderImpl._apply_overrides_to_config(keys, config)
    values: Any = OmegaConf.to_container(config, resolve=True)
    wrong = problems(config_name, config, compose(*chosen))
    if wrong:
        raise UserError("\n".join(wrong))
    for key in ("model.name", "data.name"):
        name = OmegaConf.select(config, key)
        if name is not None and not NAME.fullmatch(str(name)):
            raise UserError(
                f"{key}={name}: is part of the names of files and of the served model, which take "
                "letters of English, digits and _ . - only, and begin with a letter, a digit or _"
            )
    if "data" in own:
        check_name(f"{config.model.name}_{config.data.name}")
        _check_task(values, {name: partial(compose, f"data={name}") for name in groups["data"]})
        # Not `???` in the YAML: that would leave the root of the set whose settings it takes over.
        asked = any(config.get(key) is not None for key in ("input", "labels", "count"))
        if config.data.root is None and not asked:
            given = [config.data.name, *(o.value() for o in overrides if o.key_or_group == "data")]
            raise UserError(f"data.root: needed by data={given[-1]}; add data.root=FOLDER")
        if task_name(config) == "generation":
            for key in ("train_size", "detail"):
                if config.data[key] not in (None, 1):
                    raise UserError(f"data.{key}: a generator learns the size that it makes")
        if "://" in str(config.data.root) and "Shards" not in config.data.dataset._target_:
            raise UserError(
                f"data.root={config.data.root}: a store is read by data=shards, and shard.py "
                "writes what it reads"
            )
    written = {"train": ("runs", "weights"), "export_model": ("runs", "models")}
    _check_writable(values, written.get(config_name, ("runs",)))
    return config


def _check_key(override: Override, defaults: DictConfig, groups: Mapping[str, object]) -> None:
    """The key must exist."""
    node: Any = OmegaConf.to_container(defaults, resolve=False)
    path = override.key_or_group.split(".")
    for depth, part in enumerate(path):
        allowed = [str(key) for key in node] if isinstance(node, dict) else []
        if part not in allowed:
            allowed += list(groups) if depth == 0 else []
            where = ".".join(path[:depth]) or "the configuration"
            every = _flat(defaults) if depth == 0 else {}
            named_so = [key for key in every if key.rpartition(".")[2] == path[-1]]
            meant = f"; did you mean '{named_so[0]}'?" if named_so else nearest(part, allowed)
            raise UserError(
                f"{override.input_line}: {where} has no '{part}'{meant} "
                f"Allowed: {listing(sorted(set(allowed)), most=40) or 'nothing below it'}"
            )
        node = node[part]


def _check_task(config: Any, sets: Mapping[str, Callable[[], DictConfig]]) -> None:
    """The data set must serve the model's task; if not, name those of `sets` which can."""
    task = task_name(config)
    if task in config["data"]["tasks"]:
        return
    able = [name for name, composed in sets.items() if task in composed().data.tasks]
    raise UserError(
        f"model={config['model']['name']} does {task}, and data={config['data']['name']} serves "
        f"{', '.join(config['data']['tasks'])} only. For {task}: {', '.join(able) or 'no set yet'}"
    )


def task_name(config: Any) -> str:
    """`classification` from `nano_cv.tasks.Classification`."""
    return str(config["model"]["task"]["_target_"]).rpartition(".")[2].lower()


def _check_writable(config: Any, keys: Sequence[str]) -> None:
    """A folder that cannot be written to is found now, not after the training."""
    for key in keys:
        folder = Path(config["paths"][key]).absolute()
        existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=existing) as probe:
                probe.write(bytes(2**14))  # about what Hydra will write before anything else
        except OSError as error:
            raise UserError(
                f"paths.{key}={config['paths'][key]}: {existing} cannot be written to "
                f"({error.strerror}); mend that, or choose another folder"
            ) from error
