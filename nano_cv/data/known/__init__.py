"""Public data sets by name: fetches the files of a set, arranges them once, and reads them.

`sets.yaml` has the files of each set; `arranging.py` lays them out for a reader of `formats`.
"""

from collections.abc import Callable, Mapping
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
    """Public data set.

    Attributes:
        archives: the files to fetch.
        arrange: lays out the fetched files in an empty folder, as `layout` reads them; called once.
        layout: reads the arranged folder.
        place: path that `layout` reads, relative to the arranged folder.
        folder: name of the arranged folder below the root of the set.
    """

    archives: tuple[Archive, ...]
    arrange: Callable[[Mapping[str, Path], Path], None]
    layout: Callable[[Path, str], dict[str, Pictures]]
    place: str
    folder: str


LAYOUTS = {"read_folder": read_folder, "read_voc": read_voc, "read_pets": arranging.read_pets}


def _read_sets() -> dict[str, KnownSet]:
    """Read the public data sets of `sets.yaml`, whose keys are described there."""
    sets = {}
    for name, given in yaml.safe_load((Path(__file__).parent / "sets.yaml").read_text()).items():
        archives = tuple(Archive(**archive) for archive in given["archives"])
        layout = LAYOUTS[given.get("layout", "read_folder")]
        where = given.get("place", ""), given.get("folder", "pictures")
        sets[name] = KnownSet(archives, getattr(arranging, name), layout, *where)
    return sets


SETS = _read_sets()


def is_fetched(root: Path, name: str) -> bool:
    """Return whether the set `name` is arranged in `root`, so that `open_known` fetches nothing."""
    return name in SETS and (root / SETS[name].folder).is_dir()


def open_known(
    root: Path, task: str, *, name: str, source: str | Path | None = None
) -> dict[str, Pictures]:
    """Read a public data set, which is fetched and arranged first if it is missing.

    Args:
        root: folder of the set.
        task: the task, for which the set must have targets.
        name: name of the set, a key of `SETS`.
        source: folder that already holds the archives; None fetches them.

    Raises:
        UserError: a file cannot be fetched, or differs from the official file.
    """
    if name not in SETS:
        raise UserError(f"data.dataset.name={name}: no such set{nearest(name, SETS)}")
    known = SETS[name]

    def make(folder: Path) -> None:
        files = [obtain(archive, root, source) for archive in known.archives]
        known.arrange({file.name: file for file in files}, folder)

    return known.layout(make_once(root / known.folder, make) / known.place, task)
