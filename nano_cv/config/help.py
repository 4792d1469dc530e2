"""Makes the text of `--help`: examples, option groups, and keys with comments of the YAML files.

`tools/write_configure.py` makes the page `docs/configure.md` from the same comments.
"""

import json
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from nano_cv.config.options import CONFIGS, Options, flatten, parse_override, read_flags

COMMENT = re.compile(r"(?:^|\s)#\s?(.*)$")
MAX_WIDTH = 100  # columns
OF_TRAINING = ("data.", "model.", "trainer.")  # many keys, of which other scripts use few


def read_comments(file: Path) -> dict[str, str]:
    """Return the comment in the line of each key of a YAML file, as `{"model.name": "..."}`."""
    lines = file.read_text().splitlines()
    # The names of keys begin with the group, except in the file of a script.
    above = {CONFIGS.name: "", "pbtxt": "triton."}.get(file.parent.name, f"{file.parent.name}.")
    if lines[0].endswith("@package _global_"):
        above = ""
    first: dict[int, str] = {}  # the first key of each line
    for line, key in _keys(yaml.compose(file.read_text()), above):
        first.setdefault(line, key)
    found = {key: COMMENT.search(lines[line]) for line, key in first.items()}
    return {key: match[1] for key, match in found.items() if match}


def _keys(node: Any, above: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of each key of a mapping."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        yield key.start_mark.line, f"{above}{key.value}"
        yield from _keys(value, f"{above}{key.value}.")


def explain_keys(options: Options, overrides: list[Any]) -> list[tuple[str, str, str]]:
    """Return key, value and comment of every setting of the script."""
    config, own = options.compose(overrides)
    choices = {str(key).partition("@")[0]: name for key, name in own.runtime.choices.items()}
    chosen = [f"{group}/{choices[group]}" for group in options.own if group in choices]
    # Keys without a comment are explained in other files: all data sets have those of `flowers`.
    common = ("data/flowers", "trainer/default", "model/lenet")
    names = [options.script, *chosen, *common]
    files = [file for name in names for file in _with_defaults(name, options.folders)]
    rows = [(file, *pair) for file in files for pair in read_comments(file).items()]
    # What a model says of a key of `data` is a reason for its value: such comments come last.
    rows.sort(key=lambda row: row[0].parent.name == "model" and not row[1].startswith("model."))
    comments: dict[str, str] = {}
    for _, key, text in rows:
        comments.setdefault(key, text)
    values: Any = OmegaConf.to_container(config, resolve=True)
    values.pop("help")
    return [
        (key, value if isinstance(value, str) else json.dumps(value), comments.get(key, ""))
        for key, value in flatten(values).items()
        if not key.rpartition(".")[2].startswith("_")
    ]


def _with_defaults(name: str, folders: Sequence[Path]) -> list[Path]:
    """Return the YAML file of an option, `model/unet_lite0`, and those that it is derived from."""
    file = next(filter(Path.is_file, (folder / f"{name}.yaml" for folder in folders)), None)
    if file is None:
        return []
    content: Any = OmegaConf.load(file)
    defaults = content.get("defaults") or []
    bases = [f"{file.parent.name}/{base}" for base in defaults if isinstance(base, str)]
    return [file, *(path for base in bases for path in _with_defaults(base, folders))]


def read_examples(script: str) -> list[str]:
    """Return the example commands, with explanations, at the head of a script's YAML file."""
    lines = (CONFIGS / f"{script}.yaml").read_text().splitlines()
    return [line[2:] for line in lines if line.startswith("# python ")]


def format_help(script: str, arguments: list[str]) -> str:
    """Return the text of `--help`, with the values of the settings typed beside `--help`.

    Raises:
        UserError: a setting beside `--help` does not exist.
    """
    flags = read_flags(arguments)
    options = Options(script, flags["config_dir"])
    overrides = [parse_override(text) for text in flags["overrides"]]
    config, _ = options.compose(overrides)
    width = min(MAX_WIDTH, shutil.get_terminal_size().columns)
    parts = [
        str(config.help),
        "Examples:\n" + "\n".join(f"  {example}" for example in read_examples(script)),
    ]
    shown = [group for group in options.own if group in options.groups and group != "hydra"]
    if shown:
        parts.append("Groups, to choose from with GROUP=OPTION (+GROUP=OPTION is the same):")
        names = {group: ", ".join(options.groups[group]) for group in shown}
        parts[-1] += "".join(f"\n{_row(group, names[group], 14, width)}" for group in shown)
    parts.append("Keys, to change with KEY=VALUE, and their values now:")
    for key, value, comment in explain_keys(options, overrides):
        if script == "train" or not key.startswith(OF_TRAINING):
            parts[-1] += "\n" + _row(f"{key}={value}", comment, 40, width)
    if script != "train" and "model" in options.own:
        parts.append("The keys of data, model and trainer: python train.py --help")
    parts.append(f"python {script}.py --cfg job   prints the whole configuration as YAML.")
    return "\n\n".join(parts)


def _row(name: str, text: str, indent: int, width: int) -> str:
    """Return a name and its text in two columns; after a long name the text starts a new line."""
    blank = " " * indent
    lines = textwrap.wrap(text, max(20, width - indent), break_long_words=False)
    head = f"  {name}"
    if len(head) < indent and lines:
        head, lines = f"{head:<{indent}}{lines[0]}", lines[1:]
    return "\n".join([head, *(blank + line for line in lines)])
