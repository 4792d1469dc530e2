"""Public data sets by name: where their files are, and how they become a layout that we read.

Goes in: the name of a set in `SETS`. Comes out: its `Pictures`, fetched and arranged once.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from nano_cv.data.formats.folder import read_folder
from nano_cv.data.formats.voc import read_voc
from nano_cv.data.known import arranging
from nano_cv.data.known.fetching import gunzip, lying_in, obtain
from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError, nearest
from nano_cv.files import make_once


class Archive(NamedTuple):
    """A file of a set.

    Attributes:
        url: where it is fetched.
        digest: its MD5 or SHA-256.
        size: in bytes, for the message to those who have to bring it by hand.
        content: SHA-256 of what a `.gz` unpacks to. A file that was brought by hand may then have
            been packed anew, as Debian does.
    """

    url: str
    digest: str
    size: int | None = None
    content: str = ""

    def obtain(self, folder: Path, source: str | Path | None) -> Path:
        """Fetch it to `folder`, or find it in `source`; checked."""
        if source is None or not self.content:
            return obtain(self.url, self.digest, folder, source, self.size)
        file = lying_in(source, self.url)
        found = hashlib.sha256(gunzip(file)).hexdigest()
        if found != self.content:
            raise UserError(f"{file}: its content has sha256 {found}; {self.content} is needed")
        return file


class KnownSet(NamedTuple):
    """A public data set.

    Attributes:
        archives: what is fetched.
        arrange: makes `layout` of the fetched files in an empty folder; called once.
        layout: reads the arranged folder.
        place: of the layout in that folder.
        folder: below the root of the set, of what is arranged.
    """

    archives: tuple[Archive, ...]
    arrange: Callable[[Mapping[str, Path], Path], None]
    layout: Callable[[Path, str], dict[str, Pictures]]
    place: str
    folder: str


LAYOUTS = {"read_folder": read_folder, "read_voc": read_voc, "read_pets": arranging.read_pets}


def _read_sets() -> dict[str, KnownSet]:
    """The table of `sets.yaml`, where each entry is described."""
    sets = {}
    for name, given in yaml.safe_load((Path(__file__).parent / "sets.yaml").read_text()).items():
        archives = tuple(Archive(**archive) for archive in given["archives"])
        layout = LAYOUTS[given.get("layout", "read_folder")]
        where = given.get("place", ""), given.get("folder", "pictures")
        sets[name] = KnownSet(archives, getattr(arranging, name), layout, *where)
    return sets


SETS = _read_sets()


def is_fetched(root: Path, name: str) -> bool:
    """Whether the public data set `name` lies in `root`, so that `open_known` fetches nothing."""
    return name in SETS and (root / SETS[name].folder).is_dir()


def open_known(
    root: Path, task: str, *, name: str, source: str | Path | None = None
) -> dict[str, Pictures]:
    """Read a public data set, after fetching and arranging what is not there yet.

    Args:
        root: folder of the set.
        task: one that the set has targets for.
        name: of the set, a key of `SETS`.
        source: folder that holds the archives already; None fetches them.

    Raises:
        UserError: not reachable, or other files than the official ones.
    """
    if name not in SETS:
        raise UserError(f"data.dataset.name={name}: no such set{nearest(name, SETS)}")
    known = SETS[name]

    def make(folder: Path) -> None:
        files = [archive.obtain(root, source) for archive in known.archives]
        known.arrange({file.name: file for file in files}, folder)

    return known.layout(make_once(root / known.folder, make) / known.place, task)
