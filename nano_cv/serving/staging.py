"""The copy of the repository that Triton reads: only what has passed the check is in it.

Triton never sees the user's folder, so a file that is damaged while it serves, or a version that
was refused, cannot keep a restarted server from serving what it served before. The copy lies in a
private folder, which only its owner can enter.
"""

import compileall
import ctypes
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from nano_cv.serving.repository import versions_of

HIDDEN = shutil.ignore_patterns(".*")  # half-copied folders
HERE, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


class Staging:
    """The copy, in a folder `live`, and what is being made ready for it, in a folder `new`."""

    def __init__(self, source: Path, area: Path) -> None:
        self.source, self.area = source, area
        self.live, self.new = area / "live", area / "new"

    def copy(self, name: str) -> Path:
        """Copy a model from the source; returns the copy.

        Raises:
            OSError: the source is being changed.
        """
        copied = self.new / name
        shutil.rmtree(copied, ignore_errors=True)
        for folder in (self.live, self.new):  # they may have been deleted
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            shutil.copytree(self.source / name, copied, ignore=HIDDEN)
        except shutil.Error as error:  # a list of all that went wrong
            raise OSError(*error.args[0][0][2:], str(self.source / name)) from error
        # A model in Python would write its bytecode beside itself when it is first imported, and
        # Triton would take that for a change, and load the model again.
        compileall.compile_dir(copied, quiet=2)
        return copied

    def publish(self, name: str, versions: Iterable[str]) -> None:
        """Put `versions` of the copy where Triton looks, all in one step: it may look just now."""
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
        """Whether Triton has anything of it."""
        return (self.live / name).exists()

    def set_aside(self, name: str, version: str) -> bool:
        """Take away a version that Triton refused, if an older one is left to serve."""
        folder = self.live / name
        if not (folder / version).is_dir() or versions_of(folder) == [version]:
            return False
        shutil.rmtree(folder / version)
        return True

    def remove(self, name: str) -> None:
        """Take a model away."""
        if self.has(name):  # in one step, as above
            (self.live / name).rename(self.new / f".{name}")
            shutil.rmtree(self.new / f".{name}")
        shutil.rmtree(self.new / name, ignore_errors=True)
