"""Publishes an export to a Triton model repository: the model, and a twin that takes JPEG files.

An export is laid out beside the repository (inside, Triton would read even a hidden folder),
checked there (and loaded by Triton, where Triton is installed), and renamed into place. All
versions of a model share `config.pbtxt`, which says which versions are served and which file has
their labels. So `config.pbtxt` is renamed last: a server that looks before sees the old model, a
server that looks after sees the new model, and a killed export leaves a whole model. The twin has
its own copy of the network, so the twin is sound at any time too.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nano_cv.errors import UserError, listing
from nano_cv.evaluation.exported import Onnx
from nano_cv.export.triton_config import (
    CONFIG,
    LABELS,
    make_jpeg_config,
    make_model_config,
    read_config,
    served_versions,
    write_config,
)
from nano_cv.export.validate import check_model
from nano_cv.files import list_versions, locked
from nano_cv.metadata import Metadata, check_classes, check_name

DECODER = Path(__file__).parent / "decoder" / "model.py"


def publish(
    repository: Path,
    metadata: Metadata,
    model: Path,
    triton: Mapping[str, Any],
    entries: Mapping[str, str],
    prove: Callable[[Path, Sequence[str]], None] | None = None,
) -> Path:
    """Add `model` as the next version of `<model>_<data>` and of its twin for encoded images.

    Args:
        repository: the model repository of Triton; created if missing.
        metadata: the metadata of the model.
        model: an ONNX file.
        triton: the options of `configs/pbtxt`.
        entries: session entries that the model needs, see `precision.py`.
        prove: loads models of a repository into a server; raises if the server refuses a model.

    Returns:
        The folder of the new version.

    Raises:
        UserError: Triton would refuse this; nothing is left behind.
    """
    check_name(metadata.name)
    check_classes(metadata.classes)
    repository.mkdir(parents=True, exist_ok=True)
    repository, given = repository.resolve(), repository  # a link may lie on another disk
    config = make_model_config(metadata, Onnx(model).session, triton, entries)
    models = [config]
    if [tensor["name"] for tensor in config["input"]] == ["IMAGES"]:
        # The twin first, for an older twin is an ensemble around the model and changes with it.
        models.insert(0, make_jpeg_config(metadata, config, triton, entries))
    names = [one["name"] for one in models]
    with locked(repository), _staging(repository) as staging:
        there = [version for name in names for version in list_versions(repository / name)]
        version = str(max([0, *there]) + 1)
        for one in models:
            _lay_out(one, metadata.classes, model, version, staging, repository)
        problems = [f"{name}: {each}" for name in names for each in check_model(staging / name)]
        if problems:
            raise UserError(
                "Triton would refuse this model, so nothing was published: "
                + listing(problems, separator="; ")
            )
        if prove:
            prove(staging, names)
        for name in names:
            _add(staging / name, repository / name)
        for name in names:
            _switch(staging / name, repository / name)
    return given / metadata.name / version


@contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """Yield an empty folder beside the repository; removes what a killed export left there.

    Raises:
        UserError: the repository is a disk of its own, so no folder can be renamed into it.
    """
    folder = repository.with_name(f".{repository.name}.export")
    if repository.stat().st_dev != repository.parent.stat().st_dev:
        raise UserError(
            f"paths.models={repository}: is where a disk is mounted, and an export is laid out "
            f"beside it; use a folder on that disk: paths.models={repository / 'models'}"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lay_out(
    config: Mapping[str, Any],
    classes: Sequence[str],
    model: Path,
    version: str,
    staging: Path,
    repository: Path,
) -> None:
    """Write the folder of a model below `staging`, complete, as for a new model.

    Args:
        config: the config of the model.
        classes: class names for the file of labels, if the config names such a file.
        model: the ONNX file.
        version: the number of the new version.
        staging: the folder of this export.
        repository: the model repository, with the models published before.
    """
    folder, target = staging / config["name"], repository / config["name"]
    (folder / version).mkdir(parents=True)
    shutil.copyfile(model, folder / version / "model.onnx")
    if config["backend"] == "python":
        shutil.copyfile(DECODER, folder / version / DECODER.name)
    message = ParseDict(config, ModelConfig())
    labels = "".join(f"{label}\n" for label in classes).encode()
    for tensor in message.output:
        if tensor.label_filename:
            tensor.label_filename = _name_labels(target, labels, int(version))
            (folder / tensor.label_filename).write_bytes(labels)
    write_config(folder / CONFIG, message)


def _name_labels(target: Path, labels: bytes, version: int) -> str:
    """Choose the name of the labels' file in a published model.

    The old labels may be read until `config.pbtxt` is replaced, so other labels get another name,
    such as labels_3.txt if the classes of version 3 differ from those of version 1.
    """
    names = chain([LABELS], (f"labels_{number}.txt" for number in count(version)))
    free = (name for name in names if not (target / name).exists() or _has(target / name, labels))
    return next(free)


def _has(file: Path, content: bytes) -> bool:
    return file.is_file() and file.read_bytes() == content


def _add(staged: Path, target: Path) -> None:
    """Move the new version and labels of a model into the published model's folder.

    Before that, the old config is changed to list the versions that it serves by number.
    """
    if not target.exists():
        return  # `_switch` moves the whole folder of a new model
    parts = [part for part in staged.iterdir() if part.name != CONFIG]
    parts = [part for part in parts if part.is_file() or not (target / part.name).exists()]
    if any(part.is_dir() for part in parts):
        try:
            config = read_config(target / CONFIG)
        except UserError:
            pass  # missing or damaged, so no server uses this config
        else:
            config.version_policy.specific.versions[:] = served_versions(target, config)
            write_config(target / CONFIG, config)
    for part in parts:
        os.replace(part, target / part.name)


def _switch(staged: Path, target: Path) -> None:
    """Replace the old config by the new config; both name only files that exist."""
    if not target.exists():
        os.rename(staged, target)
    elif not _has(target / CONFIG, (staged / CONFIG).read_bytes()):  # spares a needless reload
        os.replace(staged / CONFIG, target / CONFIG)
