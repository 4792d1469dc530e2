"""Writes files and folders whole or not at all, one process at a time."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from nano_cv.errors import UserError

log = logging.getLogger(__name__)
BUSY = "another process is training this run; wait for its end, or stop it"
VERSION = re.compile(r"[1-9][0-9]{0,17}")  # folder names that Triton takes for versions


def list_versions(folder: Path) -> list[int]:
    """Return the versions of an exported model, ascending; empty if there is no folder."""
    names = [path.name for path in folder.glob("[1-9]*") if path.is_dir()]
    return sorted(int(name) for name in names if VERSION.fullmatch(name))


def inside(folder: Path, name: str) -> Path:
    """Return the path of `name` in `folder`, where the name may come from a stranger.

    Raises:
        UserError: the path would lie outside of the folder.
    """
    path = folder / name
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        raise UserError(f"{name!r}: a name that leads out of {folder}")
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` on success, and removed on any failure.

    Temporary files that a killed process left for the same `path` are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        process = left.name.split(".")[-2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(temporary):
            error.filename = str(path)  # a write to a full disk names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write a text as UTF-8, or bytes, to a file: whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """Let one process at a time work on `path`; the others wait and say so in the log.

    With a text in `busy` they do not wait, but raise a `UserError` with the text.

    The lock is a file `.NAME.lock` beside `path`, which its holder removes in the end. A
    process that waited then makes a new one (filelock notices that the old file was removed).

    Raises:
        OSError: the lock file cannot be created.
    """
    file = path.with_name(f".{path.name}.lock")
    try:
        file.touch()  # in a folder that takes no files, as /proc, FileLock would try for ever
    except OSError as error:
        error.filename = str(path)
        raise
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if busy:
            raise UserError(f"{path}: {busy}") from None
        log.info("%s: another process is using it; waiting for that", path)
        lock.acquire()
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Fill the folder by calling `make`, unless the folder exists, and return it.

    `make` is given a temporary folder that is renamed when it is full. A second process that asks
    at the same time waits and then finds the folder.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    with locked(folder):
        if not folder.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)  # may be left by a killed process
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
