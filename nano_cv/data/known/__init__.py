"""Public data sets by name: fetches the files of a set, arranges them once, and reads them.

`sets.yaml` has the files of each set; `arranging.py` lays them out for a reader of `formats`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import yaml

from nano_cv.data.formats.folder import read_folder
from nano_cv.data.formats.voc import read_voc
from nano_cv.data.known import arranging
from nano_cv.data.known.fetching import Archive, obtain
from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError, nearest
from nano_cv.files import make_once


class KnownSet(NamedTuple):
    """Public data set, as `sets.yaml` explains it."""

    archives: Sequence[Archive]
    layout: str = "read_folder"
    place: str = ""
    folder: str = "pictures"


LAYOUTS: dict[str, Callable[[Path, str], dict[str, Pictures]]] = {
    "read_folder": read_folder,
    "read_voc": partial(read_voc, partly=True),
    "read_pets": arranging.read_pets,
}
SETS = {
    name: KnownSet(**entry | {"archives": [Archive(**archive) for archive in entry["archives"]]})
    for name, entry in yaml.safe_load((Path(__file__).parent / "sets.yaml").read_text()).items()
}


def is_fetched(root: Path, name: str) -> bool:
    """Return whether the set `name` is arranged in `root`, so that `open_known` fetches nothing."""
    return name in SETS and (root / SETS[name].folder).is_dir()


def open_known(
    root: Path, task: str, *, name: str, source: str | Path | None = None
) -> dict[str, Pictures]:
    """Read a public data set, which is fetched and arranged first if it is missing.

    `name` is a key of `SETS`; `source` is a folder that already holds the archives, or None.

    Raises:
        UserError: a file cannot be fetched, or differs from the official file.
    """
    if name not in SETS:
        raise UserError(f"data.dataset.name={name}: no such set{nearest(name, SETS)}")
    known = SETS[name]

    def make(folder: Path) -> None:
        files = [obtain(archive, root, source) for archive in known.archives]
        getattr(arranging, name)({file.name: file for file in files}, folder)

    return LAYOUTS[known.layout](make_once(root / known.folder, make) / known.place, task)
