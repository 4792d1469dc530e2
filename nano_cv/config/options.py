"""Parses a command line, and composes the YAML files of `configs/` by it, as Hydra does."""

import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from nano_cv.errors import UserError, listing, nearest

PLAIN = re.compile(r"[\w./:@-]+", re.ASCII)  # values that Hydra reads without quotes
CONFIGS = Path(__file__).parents[2] / "configs"


def accept_plus(arguments: list[str]) -> list[str]:
    """Turn `+data=flowers` into `data=flowers`, for Hydra accepts only one of the two spellings.

    A `~` at the start of a value becomes the home folder, which neither the shell nor Hydra does.
    A text that Hydra cannot read, such as the name of a picture in another language, gets quotes.
    """
    groups, home = "|".join([*option_groups([CONFIGS]), r"hydra/[\w/]+"]), Path.home()
    arguments = [re.sub(rf"^\+({groups})=", r"\1=", argument) for argument in arguments]
    tilde = re.compile(r"^([\w.+]+=)~(?=/|$)")
    return [_in_quotes(tilde.sub(rf"\g<1>{home}", argument)) for argument in arguments]


def _in_quotes(argument: str) -> str:
    """Return KEY=VALUE with the quotes that its text needs; other arguments as they are."""
    key, _, value = argument.partition("=")
    structured = re.match(r"$|[\[{]|\w+\(", value) or "," in value  # a list, or a call of Hydra's
    if not re.fullmatch(r"[\w.+]+", key) or PLAIN.fullmatch(value) or structured:
        return argument
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return as_setting(key, value)
    return argument


def read_flags(arguments: list[str]) -> dict[str, Any]:
    """Read Hydra's flags from a command line, by Hydra's own parser.

    Returns:
        `overrides`, the KEY=VALUE arguments; `multirun` and `config_dir`; and `question`, whether
        Hydra will only print information, so that no run will start.

    Raises:
        UserError: an unknown flag, a setting behind a flag, or two flags that exclude each other.
    """
    flags, unknown = get_args_parser().parse_known_args(arguments)
    if unknown and not unknown[0].startswith("-"):
        raise UserError(
            f"{unknown[0]}: stands behind a flag; flags such as -m go before all settings"
        )
    if unknown:
        raise UserError(f"{unknown[0]}: no such flag; settings are given as KEY=VALUE, see --help")
    helps, informs = flags.help or flags.hydra_help, flags.info or flags.shell_completion
    if not helps and sum(map(bool, (flags.run, flags.multirun, flags.cfg, informs))) > 1:
        raise UserError("only one of --multirun, --cfg, --info and --run is possible at a time")
    return {**vars(flags), "question": helps or informs}


def add_settings(arguments: Sequence[str], added: Sequence[str]) -> list[str]:
    """Insert settings behind the typed ones: flags may stand before or behind all, not between."""
    typed = read_flags([*arguments])["overrides"]
    at = arguments.index(typed[0]) + len(typed) if typed else len(arguments)
    return [*arguments[:at], *added, *arguments[at:]]


def parse_override(text: str) -> Override:
    """Parse a KEY=VALUE argument; a `UserError` shows how to quote what Hydra cannot parse."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        key, sign, value = text.partition("=")
        if not sign:
            advice = "what is needed is KEY=VALUE, see --help"
        elif re.match(r"\[*\{.*:|\[+\[", value):
            advice = (
                "put quotes around texts. Names before a colon can only have plain letters and no "
                "quotes; classes with other names go into class_dict.csv"
            )
        else:
            advice = f"quote the value: {shlex.quote(as_setting(key, value))}"
        raise UserError(f"{text}: cannot be understood; {advice}") from error


def as_setting(key: str, value: str) -> str:
    """Return KEY=VALUE, with the quotes that Hydra needs around texts of some characters."""

    def quoted(text: str) -> str:
        return text if PLAIN.fullmatch(text) else QuotedString(text, Quote.double).with_quotes()

    if re.fullmatch(r"\[[^][{}\"']*\]", value):
        return f"{key}=[{','.join(quoted(text.strip()) for text in value[1:-1].split(','))}]"
    return f"{key}={quoted(value)}"


def option_groups(folders: Sequence[Path]) -> dict[str, list[str]]:
    """List the option groups, and the options of each, from the YAML files of `folders`."""
    groups: dict[str, list[str]] = {}
    files = [file for folder in folders for file in folder.glob("*/*.yaml")]
    for file in sorted(files, key=lambda file: file.parts[-2:]):
        groups.setdefault(file.parent.name, []).append(file.stem)
    return groups


class Options:
    """Option groups of a script (`train`, `infer`, ...), and the composition of its configuration.

    `groups` has the options of every group, and `own` the names of the groups of this script.
    """

    def __init__(self, script: str, config_dir: str | None = None) -> None:
        folders = [CONFIGS] + ([Path(config_dir)] if config_dir else [])
        if not all(folder.is_dir() for folder in folders):
            raise UserError(f"--config-dir {config_dir}: no such folder")
        self.script, self.folders = script, folders[::-1]  # own files first
        self.groups = option_groups(folders)
        defaults = OmegaConf.load(CONFIGS / f"{script}.yaml").defaults
        keys = [str(key) for item in defaults if item != "_self_" for key in item]
        self.own = [key.split()[-1].partition("@")[0] for key in keys]  # `optional GROUP@PLACE`
        self._places = ",".join(f"file://{folder.resolve()}" for folder in folders[1:])
        # Composing takes a quarter of a second, about as long as all other checks together.
        self._composed = cache(self._compose)

    def _compose(self, *lines: str) -> DictConfig:
        places = f"hydra.searchpath=[{self._places}]"
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra.compose(self.script, [places, *lines], return_hydra_config=True)

    def compose(self, overrides: Sequence[Override]) -> tuple[DictConfig, DictConfig]:
        """Compose the chosen options and set the keys, as Hydra itself will do afterwards.

        Returns:
            The configuration of the script, and Hydra's own.

        Raises:
            UserError: an option or a key does not exist.
        """
        for override in overrides:
            self._check_option(override)
        chosen = [str(override.input_line) for override in overrides if self.is_option(override)]
        config = self._composed(*chosen).copy()
        for override in overrides:
            if not self.is_option(override):
                _set_key(config, override, self.own)
        settings = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        return settings, config.hydra

    def is_option(self, override: Override) -> bool:
        """Whether an argument chooses an option of a group, as `model=lenet` does."""
        name = override.key_or_group
        return name in self.own or name.startswith("hydra/")

    def _check_option(self, override: Override) -> None:
        name = override.key_or_group
        if name in self.groups and name not in self.own:
            raise UserError(
                f"{override.input_line}: {self.script}.py takes no {name}; to list its settings, "
                f"type: python {self.script}.py --help"
            )
        if name not in self.own:
            return
        if override.is_delete():
            allowed = ", ".join(f"{name}={option}" for option in self.groups[name])
            raise UserError(f"{override.input_line}: every run needs this; allowed: {allowed}")
        value = override.value()
        for option in value if isinstance(value, list) else [value]:
            if option not in self.groups[name]:
                raise UserError(
                    f"{name}={option}: no such {name}{nearest(str(option), self.groups[name])} "
                    f"Allowed: {', '.join(self.groups[name])}"
                )


def _set_key(config: DictConfig, override: Override, groups: Sequence[str]) -> None:
    line, key, value = override.input_line, override.key_or_group, override.value()
    if inside := key.partition("hydra.sweeper.params.")[2]:
        raise UserError(f"{line}: a range is set by the name of its key: {inside}=")
    if override.package is not None:
        raise UserError(f"{line}: '{key}' is no option group, so it takes no @")
    above, _, last = key.rpartition(".")
    if not (override.is_add() or override.is_force_add()):
        _check_key(config, str(line), key.split("."), groups)
    merges = isinstance(value, dict | list) or override.is_force_add()
    if override.is_add() and not merges and OmegaConf.select(config, key) is not None:
        raise UserError(f"{line}: this key exists already; leave out the +")
    if override.is_delete():
        if OmegaConf.select(config, key) is None:
            raise UserError(f"{line}: this key is not set, so it cannot be taken away")
        with open_dict(config):
            del (OmegaConf.select(config, above) if above else config)[last]
    else:
        OmegaConf.update(config, key, value, merge=True, force_add=True)


def _check_key(config: DictConfig, line: str, path: Sequence[str], groups: Sequence[str]) -> None:
    node: Any = OmegaConf.to_container(config)
    for depth, part in enumerate(path):
        if isinstance(node, dict) and part in node:
            node = node[part]
            continue
        others = list(map(str, node)) if isinstance(node, dict) else []
        meant, where = nearest(part, others), ".".join(path[:depth])
        others += groups if depth == 0 else []
        if isinstance(node, dict) and part.rstrip("s") not in others:
            same = _of_that_name(node, part)
            meant = f"; did you mean '{same[0]}'?" if same else nearest(part, others)
        raise UserError(
            f"{line}: {where or 'the configuration'} has no '{part}'{meant} "
            f"Allowed: {listing(sorted(set(others)), most=40) or 'nothing below it'}"
        )


def _of_that_name(values: Mapping[Any, Any], name: str) -> list[str]:
    """Return keys that end in `.name`, or else keys whose last part has the word `name`.

    `lr` ends `model.task.optimizer.lr`; `epochs` and `epoch` are words of `trainer.max_epochs`.
    """
    lasts = {key: key.rpartition(".")[2] for key in flatten(values) if not key.startswith("hydra.")}
    same = [key for key, last in lasts.items() if last == name]
    word = name.rstrip("s")
    return same or [
        key for key, last in lasts.items() if word in [part.rstrip("s") for part in last.split("_")]
    ]


def flatten(values: Mapping[Any, Any], separator: str = ".") -> dict[str, Any]:
    """Turn `{"a": {"b": 1}}` into `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        below = flatten(value, separator) if isinstance(value, dict) else {}
        inner = {f"{key}{separator}{name}": leaf for name, leaf in below.items()}
        flat |= inner or {str(key): value}
    return flat
