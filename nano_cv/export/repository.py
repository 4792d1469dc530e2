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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nano_cv.errors import UserError, listing
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

    The ONNX file `model` needs the session `entries`, see `precision.py`; `triton` are the options
    of `configs/pbtxt`; `prove` loads models of a repository into a server, and raises if the server
    refuses one. A missing `repository` is created.

    Returns:
        The folder of the new version.

    Raises:
        UserError: Triton would refuse this; nothing is left behind.
    """
    check_name(metadata.name)
    check_classes(metadata.classes)
    repository.mkdir(parents=True, exist_ok=True)
    repository, original = repository.resolve(), repository  # a link may lie on another disk
    config = make_model_config(metadata, model, triton, entries)
    models = [config]
    if [tensor["name"] for tensor in config["input"]] == ["IMAGES"]:
        # The twin first, for an older twin is an ensemble around the model and changes with it.
        models.insert(0, make_jpeg_config(metadata, config, triton, entries))
    names = [entry["name"] for entry in models]
    with locked(repository), _staging(repository) as staging:
        existing = [version for name in names for version in list_versions(repository / name)]
        version = str(max([0, *existing]) + 1)
        for entry in models:
            folders = staging / entry["name"], repository / entry["name"]
            _lay_out(entry, metadata.classes, model, version, *folders)
        problems = [f"{name}: {why}" for name in names for why in check_model(staging / name)]
        if problems:
            raise UserError(
                "Triton would refuse this model, so nothing was published: "
                + listing(problems, separator="; ")
            )
        if prove:
            prove(staging, names)
        older = [name for name in names if (repository / name).exists()]
        for name in older:
            _add(staging / name, repository / name)
        for name in names:  # now the configs, which may only name files that exist
            if name in older:
                os.replace(staging / name / CONFIG, repository / name / CONFIG)
            else:
                os.rename(staging / name, repository / name)
    return original / metadata.name / version


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
    folder: Path,
    target: Path,
) -> None:
    """Write the `folder` of a model with a new version, complete, as for a new model.

    `target` is the folder of the same model in the repository, which may not exist yet.
    """
    (folder / version).mkdir(parents=True)
    shutil.copyfile(model, folder / version / "model.onnx")
    if config["backend"] == "python":
        shutil.copyfile(DECODER, folder / version / DECODER.name)
    message = ParseDict(config, ModelConfig())
    labels, known = "".join(f"{label}\n" for label in classes).encode(), target / LABELS
    for tensor in message.output:
        if tensor.label_filename:
            # The old labels may be read until `config.pbtxt` is replaced, so other labels get
            # another name.
            if known.exists() and known.read_bytes() != labels:
                tensor.label_filename = f"labels_{version}.txt"
            (folder / tensor.label_filename).write_bytes(labels)
    write_config(folder / CONFIG, message)


def _add(staged: Path, target: Path) -> None:
    """Move the new version and labels of a model into the published model's folder.

    Before that, the old config is changed to list the versions that it serves by number.
    """
    with suppress(UserError):  # missing or damaged: then no server uses this config
        config = read_config(target / CONFIG)
        config.version_policy.specific.versions[:] = served_versions(target, config)
        write_config(target / CONFIG, config)
    for part in [part for part in staged.iterdir() if part.name != CONFIG]:
        os.replace(part, target / part.name)
