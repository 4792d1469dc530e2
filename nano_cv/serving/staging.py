"""The copy of the repository that Triton reads: only what has passed the checks is in it.

Triton never sees the user's folder, so a file that is damaged while it serves, or a version that
was refused, cannot keep a restarted server from serving what it served before.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from nano_cv.serving.repository import versions_of

HIDDEN = shutil.ignore_patterns(".*")  # half-copied folders


class Staging:
    """A folder of our own with what Triton may read."""

    def __init__(self, source: Path, area: Path) -> None:
        """Make the folders below `area`, which must not exist."""
        self.source, self.area = source, area
        self.live = area / "live"
        self.live.mkdir(parents=True)

    def copy(self, name: str) -> Path:
        """Copy a model from the source; returns the copy.

        Raises:
            OSError: the source is being changed.
        """
        copied = self.area / "new" / name
        shutil.rmtree(copied, ignore_errors=True)
        try:
            shutil.copytree(self.source / name, copied, ignore=HIDDEN)
        except shutil.Error as error:  # a list of all that went wrong
            raise OSError(*error.args[0][0][2:], str(self.source / name)) from error
        return copied

    def is_live(self, name: str, versions: Iterable[str]) -> bool:
        """Whether Triton already has the copy with `versions`."""
        fresh, live = self.area / "new" / name, self.live / name
        if not self.has(name):
            return False
        leave = set(versions_of(fresh)) - set(versions)
        contents = [
            {
                (file.relative_to(folder), file.stat().st_size, file.stat().st_mtime_ns)
                for file in folder.rglob("*")
                if file.is_file() and file.relative_to(folder).parts[0] not in leave
            }
            for folder in (fresh, live)
        ]
        return contents[0] == contents[1]

    def publish(self, name: str, versions: Iterable[str]) -> None:
        """Put the copy with `versions` where Triton looks, or leave there only these."""
        copied, live, old = (self.area / part / name for part in ("new", "live", "old"))
        if copied.exists():  # moved, not linked: Triton reloads what has another change time
            if live.exists():
                old.parent.mkdir(exist_ok=True)
                live.rename(old)
            copied.rename(live)
        for version in set(versions_of(live)) - set(versions):
            shutil.rmtree(live / version)

    def restore(self, name: str) -> bool:
        """Put back what was there before `publish`; says whether there was anything."""
        shutil.rmtree(self.live / name, ignore_errors=True)
        old = self.area / "old" / name
        if old.exists():
            old.rename(self.live / name)
        return self.has(name)

    def has(self, name: str) -> bool:
        """Whether Triton has anything of it."""
        return (self.live / name).exists()

    def settle(self, name: str) -> None:
        """Forget what is only needed while a change may be undone."""
        for folder in ("new", "old"):
            shutil.rmtree(self.area / folder / name, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Take a model away."""
        self.settle(name)
        shutil.rmtree(self.live / name, ignore_errors=True)
