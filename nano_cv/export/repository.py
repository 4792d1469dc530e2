"""The Triton model repository: config.pbtxt, labels, versions, and the twin that takes JPEG.

An export is laid out beside the repository (in it, Triton would read even a hidden folder), checked
there (and loaded by Triton, where it is installed), and renamed into place. Triton has one config
and one set of labels for all versions of a model, so what is renamed last is `config.pbtxt`, which
says which versions are served and which file has their labels: whoever looks before sees the old
model, whoever looks after sees the new one, and a killed export leaves one of the two. The twin has
its own copy of the network, so it is right by itself at any time.
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
    """Add `model` as the next version of `<model>_<data>` and of its twin for encoded pictures.

    Args:
        repository: of Triton; made if it is not there.
        metadata: what the model promises.
        model: an ONNX file.
        triton: the options of `configs/pbtxt`.
        entries: session entries that the model wants, see `precision.py`.
        prove: loads models of a repository into a server; raises where it refuses one.

    Returns:
        The folder of the new version.

    Raises:
        UserError: Triton would refuse this; nothing is left behind.
    """
    check_name(metadata.name)
    check_classes(metadata.classes)
    repository.mkdir(parents=True, exist_ok=True)
    repository, given = repository.resolve(), repository  # beside a link may be another disk
    config = make_model_config(metadata, Onnx(model).session, triton, entries)
    models = [config]
    if [tensor["name"] for tensor in config["input"]] == ["IMAGES"]:
        # First, for a twin of earlier days is an ensemble around the model, which would change it.
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
    """An empty folder beside the repository. A folder found here was left by a killed export.

    Raises:
        UserError: the repository is a disk of its own, so nothing beside it can be renamed into it.
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
    """Write the folder of a model below `staging`, whole, as for the first of its name.

    Args:
        config: of the model.
        classes: for the file of labels, if the config names one.
        model: the ONNX file, for the model that has it.
        version: for that model.
        staging: of this export.
        repository: what is published already.
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
    """The name of the labels' file in a published model.

    The labels that are there may be read until the end, so other labels get another name, such as
    labels_3.txt where the classes of version 3 are not those of the first.
    """
    names = chain([LABELS], (f"labels_{number}.txt" for number in count(version)))
    free = (name for name in names if not (target / name).exists() or _has(target / name, labels))
    return next(free)


def _has(file: Path, content: bytes) -> bool:
    return file.is_file() and file.read_bytes() == content


def _add(staged: Path, target: Path) -> None:
    """Put the new versions and labels of a model beside the old ones.

    The config that is there is told first to go on serving what it serves.
    """
    if not target.exists():
        return  # all of it comes with the switch
    parts = [part for part in staged.iterdir() if part.name != CONFIG]
    parts = [part for part in parts if part.is_file() or not (target / part.name).exists()]
    if any(part.is_dir() for part in parts):
        try:
            config = read_config(target / CONFIG)
        except UserError:
            pass  # missing or damaged: no server has it
        else:
            config.version_policy.specific.versions[:] = served_versions(target, config)
            write_config(target / CONFIG, config)
    for part in parts:
        os.replace(part, target / part.name)


def _switch(staged: Path, target: Path) -> None:
    """Replace the old config by the new; both name only files that exist."""
    if not target.exists():
        os.rename(staged, target)
    elif not _has(target / CONFIG, (staged / CONFIG).read_bytes()):  # the same needs no reload
        os.replace(staged / CONFIG, target / CONFIG)
