"""Reads a model repository on disk: which models to serve, and whether their files changed."""

import os
from collections.abc import Iterable
from pathlib import Path

from nano_cv.errors import UserError, listing, nearest
from nano_cv.export.triton_config import CONFIG, read_config
from nano_cv.files import list_versions
from nano_cv.metadata import JPEG

Signature = frozenset[tuple[str, int, int, int]]


def wanted_models(repository: Path, names: Iterable[str] | None) -> list[str]:
    """Return the models to serve: all, or `names` plus the parts of the ensembles among them.

    Raises:
        UserError: the repository has no model, or lacks a model of `names`.
    """
    found = [folder.name for folder in folders(repository)]
    if not found:
        raise UserError(
            f"{repository}: no model to serve; "
            "type: python export_model.py +data=flowers +model=lenet"
        )
    if names is None:
        return found
    wanted = []
    left = list(names)
    while left:
        name = left.pop(0)
        if name not in found:
            raise UserError(
                f"models: {repository} has no '{name}'{nearest(name, found)} "
                f"There are: {listing(found)}"
            )
        if name not in wanted:
            wanted.append(name)
            twin = f"{name}{JPEG}"  # for clients that send encoded pictures by gRPC
            left += [*parts_of(repository / name), *([twin] if twin in found else [])]
    return wanted


def folders(repository: Path) -> list[Path]:
    """Return the folder of each model; empty if there is no repository."""
    if not repository.is_dir():
        return []
    items = sorted(repository.iterdir())
    return [item for item in items if item.is_dir() and not item.name.startswith(".")]


def parts_of(folder: Path) -> list[str]:
    """Return the names of the models in an ensemble; empty for any other model."""
    try:
        config = read_config(folder / CONFIG)
    except UserError:
        return []  # the check of the model will report the error
    return [step.model_name for step in config.ensemble_scheduling.step]


def signature(folder: Path) -> Signature:
    """Return name, size, time and inode of each file of a model, to notice changes."""
    found = set()
    for root, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]
        for name in [*names, *(file for file in files if not file.startswith("."))]:
            try:
                status = os.stat(os.path.join(root, name))
            except OSError:
                continue  # removed a moment ago; the next signature will differ
            size = 0 if name in names else status.st_size
            mtime = 0 if name in names else status.st_mtime_ns
            found.add((os.path.join(root, name), size, mtime, status.st_ino))
    return frozenset(found)


def versions_of(folder: Path) -> list[str]:
    """Return the version numbers of a model as texts, oldest first."""
    return [str(version) for version in list_versions(folder)]
