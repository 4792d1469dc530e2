"""Write `docs/configure.md` from the comments in `configs/`: `python -m tools.write_configure`."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

from nano_cv.config.help import explain_keys
from nano_cv.config.options import Options, parse_override

FILE = Path(__file__).parents[1] / "docs" / "configure.md"
SCRIPTS = ("train", "infer", "export_model", "serve", "benchmark", "shard")
GROUPS = {
    "data": "Where the pictures come from, and how they are augmented.",
    "model": "Network, task and optimiser. These are the keys of `model=lenet`.",
    "trainer": "Length of the training, device and precision.",
    "logger": "Tracking. `logger=csv` writes files, `logger=none` tracks nothing.",
    "paths": "Folders.",
    "triton": "What goes into `config.pbtxt` at export.",
}
INTRODUCTION = """\
# Configure

<!-- Written by: python -m tools.write_configure -->

A command line chooses an option of a group with `GROUP=OPTION` (`+GROUP=OPTION` means the same),
and changes a value with `KEY=VALUE`. The values below are those of `data=flowers` and
`model=lenet`; other data sets and models have others. For instance, `flowers` are turned by any
angle (`data.augment.degrees=180`), and pictures of your own are not.

The YAML files in `configs/` hold every key. A wrong group, option, key or value is answered in
half a second, with the nearest spelling and what is allowed. `--help` of a script shows its keys,
also of another model: `python train.py model=unet --help`. `--cfg job` prints the whole
configuration. Your own YAML files may lie elsewhere: `--config-dir=my_configs`.
"""
SOME = "The default is that of the first option in the last column."
Row = tuple[str, str, str]


def make_page() -> str:
    """The page as Markdown."""
    scripts = {script: explain_keys(Options(script), []) for script in SCRIPTS}
    train = Options("train")
    parts = [INTRODUCTION, "## Groups", "| group | options |\n|---|---|"]
    for group in train.own:
        if group != "hydra":
            names = ", ".join(f"`{name}`" for name in train.groups[group])
            parts[-1] += f"\n| `{group}` | {names} |"
    for script, rows in scripts.items():
        own = [row for row in rows if "." not in row[0] or row[0].partition(".")[0] not in GROUPS]
        parts += [f"## Keys of `{script}.py` outside the groups", _table(own)]
    every = scripts["train"] + scripts["export_model"]
    for group, meaning in GROUPS.items():
        inside = dict.fromkeys(row for row in every if row[0].startswith(f"{group}."))
        parts += [f"## `{group}`", meaning, _table(inside)]
    for group in ("data", "model"):
        known = {key for key, _, _ in every}
        more: dict[tuple[str, str], Row] = {}  # by key and meaning
        having: dict[tuple[str, str], list[str]] = {}
        for name in train.groups[group]:
            for row in explain_keys(train, [parse_override(f"{group}={name}")]):
                # Keys below `data.dataset` repeat those of `data`.
                own_key = row[0].startswith(f"{group}.") and ".dataset." not in row[0]
                if own_key and row[0] not in known:
                    more.setdefault((row[0], row[2]), row)
                    having.setdefault((row[0], row[2]), []).append(f"`{name}`")
        some = [(*row, ", ".join(having[key])) for key, row in more.items()]
        parts += [f"## `{group}`: keys of some options", SOME, _table(some, "of")]
    return "\n\n".join(parts) + "\n"


def _table(rows: Iterable[tuple[str, ...]], *more: str) -> str:
    """A table of key, value and comment, with further columns that `more` names."""
    heads = ["key", "default", "meaning", *more]
    cells = [
        [f"`{key}`", f"`{value}`", escape(text, quote=False), *others]
        for key, value, text, *others in rows
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *cells])


if __name__ == "__main__":
    FILE.write_text(make_page())
