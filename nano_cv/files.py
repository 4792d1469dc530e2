"""Files and folders appear whole or not at all, and are made by one process at a time."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock

from nano_cv.errors import UserError


def inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`.

    Raises:
        UserError: it would lie outside; names may come from a foreign set or model.
    """
    path = folder / name
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        raise UserError(f"{name!r}: a name that leads out of {folder}")
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; renamed to `path` on success, removed on any failure.

    What a killed process left behind for the same `path` is cleared away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        if not psutil.pid_exists(int(left.name.split(".")[-2])):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a full disk does not say for which file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, filled by `make` if it is not there yet; `make` is given one to be renamed.

    A second process at the same moment waits and finds it made.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
            temporary.mkdir()
            try:
                make(temporary)
                temporary.rename(folder)
            except OSError as error:
                error.filename = error.filename or str(folder)
                raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder
