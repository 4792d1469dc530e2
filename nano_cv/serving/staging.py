"""Copy of the model repository for Triton, with only the versions that have passed the check.

Triton never reads the user's repository, so neither a file that is damaged there during serving
nor a refused version can keep a restarted server from serving what it served before. The copy lies
in a private folder, which only its owner can enter.
"""

import compileall
import ctypes
import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from nano_cv.serving.repository import MAX_DEPTH, versions_of

HERE, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


def _copy(source: Path, target: Path, depth: int = 0) -> None:
    """Copy a folder without hidden items, such as half-copied folders.

    At a `depth` of 0, folders of versions may be links, as into a store. All else must be files of
    its own: a link could lead to any file of this machine, or in a circle, and a device never ends.
    """
    if depth > MAX_DEPTH:
        raise OSError(errno.EINVAL, "too many folders inside of each other", str(source))
    target.mkdir()
    for item in source.iterdir():
        if item.name.startswith("."):
            continue
        if item.is_dir() and (not item.is_symlink() or (depth == 0 and item.name.isdecimal())):
            _copy(item, target / item.name, depth + 1)
        elif item.is_file() and not item.is_symlink():
            shutil.copy2(item, target / item.name)
        else:
            raise OSError(errno.EINVAL, "a link or a device; put the file itself there", str(item))


class Staging:
    """Copy of the repository in a folder `live`; models are prepared for it in a folder `new`."""

    def __init__(self, source: Path, area: Path) -> None:
        self.source, self.live, self.new = source, area / "live", area / "new"

    def copy(self, name: str) -> Path:
        """Copy a model from the source into `new`, and return the folder of the copy.

        Raises:
            OSError: the source was changed during the copy, or holds links or devices; or the disk
                is full. Then nothing is left of the copy.
        """
        copied = self.new / name
        shutil.rmtree(copied, ignore_errors=True)
        for folder in (self.live, self.new):  # a cleaner of /tmp may have deleted them
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _copy(self.source / name, copied)
        except OSError:
            shutil.rmtree(copied, ignore_errors=True)
            raise
        # A model in Python would write its bytecode beside itself at its first import. Triton
        # would take the new file for a change, and load the model again.
        compileall.compile_dir(copied, quiet=2)
        return copied

    def publish(self, name: str, versions: Iterable[str]) -> None:
        """Move `versions` of a copy from `new` to `live` in one step, for Triton may be reading."""
        copied, live = self.new / name, self.live / name
        for version in set(versions_of(copied)) - set(versions):
            shutil.rmtree(copied / version)
        if not live.exists():
            copied.rename(live)
        elif ctypes.CDLL(None).renameat2(
            HERE, os.fsencode(copied), HERE, os.fsencode(live), EXCHANGE
        ):  # this file system cannot exchange two folders
            live.rename(self.new / f".{name}")
            copied.rename(live)
            (self.new / f".{name}").rename(copied)
        shutil.rmtree(copied, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Return whether the folder for Triton has this model."""
        return (self.live / name).exists()

    def remove(self, name: str) -> None:
        """Remove a model from the folder for Triton."""
        if self.has(name):  # renamed first, so that Triton never sees half of a model
            (self.live / name).rename(self.new / f".{name}")
            shutil.rmtree(self.new / f".{name}")
        shutil.rmtree(self.new / name, ignore_errors=True)
