"""The model repository on disk: which models to serve, and which of them have changed."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable
from itertools import chain
from pathlib import Path

from nano_cv.errors import UserError, listing, nearest, one_line
from nano_cv.files import list_versions
from nano_cv.metadata import JPEG, NAME

log = logging.getLogger(__name__)
MAX_DEPTH = 20  # of folders inside of each other in a model
Signature = frozenset[tuple[str, int, int, int]]


class Repository:
    """A model repository on disk, with the models that a backend has taken over from it.

    `names` are the models to serve; None for all. `taken` has the signature that each model had
    when the backend took it over.
    """

    def __init__(self, source: Path, names: Iterable[str] | None) -> None:
        self.source, self.names = source, names
        self.taken: dict[str, Signature] = {}
        self.passed_over: set[str] = set()  # names of folders that a warning has named

    def wanted(self) -> list[str]:
        """Return the models to serve: all, or `names` and their JPEG twins.

        Raises:
            UserError: the repository has no model, or lacks a model of `names`.
        """
        folders = self.folders()
        if not folders:
            raise UserError(
                f"{self.source}: no model to serve; "
                "type: python export_model.py +data=flowers +model=lenet"
            )
        return choose(self.names, folders, self.source)

    def folders(self) -> list[str]:
        """Return the name of each model; empty if there is no repository.

        Folders whose names are no names of models are passed over, with a warning.
        """
        items = sorted(self.source.iterdir()) if self.source.is_dir() else []
        names = [item.name for item in items if item.is_dir() and not item.name.startswith(".")]
        for name in {folder for folder in names if not NAME.fullmatch(folder)} - self.passed_over:
            self.passed_over.add(name)
            log.warning("%s: passed over: %r is no name of a model", self.source, name)
        return [name for name in names if NAME.fullmatch(name)]

    def signatures(self) -> dict[str, Signature]:
        """Return the present signature of each model to serve."""
        try:
            names = self.wanted()
        except UserError:  # some or all models are gone: serve those that are left
            left = self.folders()
            names = [name for name in self.taken if name in left]
        return {name: signature(self.source / name) for name in names}

    async def watch(
        self,
        seconds: float,
        take: Callable[[dict[str, Signature]], Awaitable[None]],
        drop: Callable[[str], None],
    ) -> None:
        """Look for changes for ever, with `seconds` between two looks.

        `take` takes over new and changed models, and sets their signatures in `taken`; `drop` is
        called with the name of each model that is gone.
        """
        last = dict(self.taken)
        while True:
            await asyncio.sleep(seconds)
            try:
                now = await asyncio.to_thread(self.signatures)
                for name in self.taken.keys() - now.keys():
                    log.warning("%s: removed from the repository", name)
                    del self.taken[name]
                    drop(name)
                changed = {name for name, state in now.items() if self.taken.get(name) != state}
                # Somebody may still be copying files in: a model must be the same at two looks.
                settled = {name: now[name] for name in changed if last.get(name) == now[name]}
                if settled:
                    await take(settled)
                last = now
            except OSError as error:  # such as too many open files
                log.warning("the repository is looked at again: %s", one_line(error))


def choose(names: Iterable[str] | None, known: Collection[str], source: object) -> list[str]:
    """Return the models of `known` to serve: all, or `names` and their JPEG twins.

    Raises:
        UserError: `source`, which has the models `known`, lacks one of `names`.
    """
    wanted = set()
    for name in known if names is None else names:
        if name not in known:
            raise UserError(
                f"models: {source} has no '{name}'{nearest(name, known)} "
                f"There are: {listing(known) or 'none'}"
            )
        wanted |= {name, f"{name}{JPEG}"}  # the twin is for clients that send pictures by gRPC
    return sorted(wanted & {*known})


def signature(folder: Path) -> Signature:
    """Return name, size, time and inode of each file of a model, to notice changes."""
    entries = set()
    linked = [str(item) for item in folder.glob("[0-9]*") if item.is_symlink() and item.is_dir()]
    for root, names, files in chain.from_iterable(map(os.walk, [str(folder), *linked])):
        deep = len(Path(root).parts) > len(folder.parts) + MAX_DEPTH
        names[:] = [name for name in names if not (deep or name.startswith("."))]
        for name in [*names, *(file for file in files if not file.startswith("."))]:
            try:
                status = os.stat(os.path.join(root, name))
            except OSError:
                continue  # removed a moment ago; the next signature will differ
            size = 0 if name in names else status.st_size
            mtime = 0 if name in names else status.st_mtime_ns
            entries.add((os.path.join(root, name), size, mtime, status.st_ino))
    return frozenset(entries)


def versions_of(folder: Path) -> list[str]:
    """Return the version numbers of a model as texts, oldest first."""
    return [str(version) for version in list_versions(folder)]
