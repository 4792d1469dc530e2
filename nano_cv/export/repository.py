"""The Triton model repository: config.pbtxt, labels, versions, and the ensemble that takes JPEG.

An export is laid out beside the repository (in it, Triton would read even a hidden folder), checked
there by Triton's rules, and renamed into place. Triton has one config and one set of labels for all
versions of a model, so what is renamed last is `config.pbtxt`, which says which versions are served
and which file has their labels: whoever looks before sees the old model, whoever looks after sees
the new one, and a killed export leaves one of the two. The ensemble of a model whose answers change
is taken away before, and comes back with the new one.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import onnxruntime
from google.protobuf import text_format
from google.protobuf.json_format import ParseDict
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nano_cv.errors import UserError, listing
from nano_cv.export.validate import CONFIG, check_model, read_config, served_versions
from nano_cv.files import locked, replacing
from nano_cv.metadata import JPEG, Metadata, check_classes, check_name

DECODER = Path(__file__).parents[1] / "serving" / "backends" / "decode" / "model.py"
LABELS = "labels.txt"  # or labels_3.txt, where the classes of version 3 are not those of the first
ENCODED = {"name": "ENCODED", "data_type": "TYPE_STRING", "dims": [1]}
DTYPES = {  # of ONNX, as onnxruntime names them; the rest are alike
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(double)": "TYPE_FP64",
}


def publish(
    repository: Path,
    metadata: Metadata,
    model: Path,
    triton: Mapping[str, Any],
    entries: Mapping[str, str],
    prove: Callable[[Path, Sequence[str]], None] | None = None,
) -> Path:
    """Add `model` as the next version of `<model>_<data>`, and the ensemble that decodes for it.

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
    config = model_config(metadata, onnxruntime.InferenceSession(model), triton, entries)
    models = [config]
    if [tensor["name"] for tensor in config["input"]] == ["IMAGES"]:
        models = [_decoder(metadata, config, triton), config, _ensemble(metadata, config, triton)]
    names = [one["name"] for one in models]
    with locked(repository), _staging(repository) as staging:
        version = str(max([0, *versions(repository / metadata.name)]) + 1)
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
        misleading = [name for name in names if _misleads(repository / name, staging / name)]
        for name in names:
            if name not in misleading:
                _add(staging / name, repository / name)
        # Two models cannot be switched in one step: for a moment no ensemble, not a wrong one.
        for name in misleading:
            os.rename(repository / name, staging / f"old_{name}")
        for name in names:
            _switch(staging / name, repository / name)
    return given / metadata.name / version


def versions(folder: Path) -> list[int]:
    """The versions of a model, ascending."""
    return sorted(int(path.name) for path in folder.glob("[1-9]*") if path.name.isdecimal())


def model_config(
    metadata: Metadata,
    session: onnxruntime.InferenceSession,
    triton: Mapping[str, Any],
    entries: Mapping[str, str],
) -> dict[str, Any]:
    """The config of an ONNX model, derived from its graph."""
    batch, instances = triton["max_batch_size"], triton["instances"]
    inputs = [_tensor(tensor) for tensor in session.get_inputs()]
    outputs = [_tensor(tensor) for tensor in session.get_outputs()]
    for tensor in outputs:
        if tensor["dims"] == [len(metadata.classes)]:
            tensor["label_filename"] = LABELS
    zeros = {
        tensor["name"]: {key: tensor[key] for key in ("data_type", "dims")} | {"zero_data": True}
        for tensor in inputs
    }
    parameters = {
        "intra_op_thread_count": str(threads(triton)),
        **entries,
        "contract": metadata.to_json(),
    }
    return {
        "name": metadata.name,
        "backend": "onnxruntime",
        "max_batch_size": batch,
        "input": inputs,
        "output": outputs,
        "instance_group": [{"count": instances, "kind": "KIND_CPU"}],
        "dynamic_batching": batching(triton, triton["max_queue_delay_us"]),
        "parameters": _parameters(parameters),
        # The first requests would otherwise pay for onnxruntime's memory plan of each batch size.
        "model_warmup": [
            {"name": f"batch of {size}", "batch_size": size, "inputs": zeros}
            for size in sorted({1, batch})
        ],
    }


def threads(triton: Mapping[str, Any]) -> int:
    """Of one instance: the cores divided among them, unless the options say otherwise."""
    return int(triton["threads"] or max(1, (os.cpu_count() or 1) // triton["instances"]))


def batching(triton: Mapping[str, Any], delay: int) -> dict[str, Any]:
    """Dynamic batching, with a queue policy only where one was asked for."""
    policy = {
        "max_queue_size": triton["max_queue_size"],
        "default_timeout_microseconds": triton["queue_timeout_us"],
    }
    asked = {key: value for key, value in policy.items() if value is not None}
    return {"max_queue_delay_microseconds": delay} | (
        {"default_queue_policy": asked} if asked else {}
    )


def text(config: Mapping[str, Any]) -> str:
    """The config as `config.pbtxt` has it."""
    return text_format.MessageToString(ParseDict(config, ModelConfig()))


def _decoder(
    metadata: Metadata, config: Mapping[str, Any], triton: Mapping[str, Any]
) -> dict[str, Any]:
    """The config of what decodes for all models of one input size."""
    size, fit = metadata.image_size, metadata.fit
    limits = {
        "max_picture_bytes": str(triton["max_picture_bytes"]),
        "max_picture_pixels": str(triton["max_picture_pixels"]),
        "fit": fit,
    }
    # No dynamic batching: a picture decodes alone, and the next model batches anew.
    return {
        "name": f"decode_{size}" + ("" if fit == "stretch" else f"_{fit}"),
        "backend": "python",
        "max_batch_size": triton["max_batch_size"],
        "input": [ENCODED],
        "output": [{key: config["input"][0][key] for key in ("name", "data_type", "dims")}],
        "instance_group": [{"count": triton["decode_instances"], "kind": "KIND_CPU"}],
        "parameters": _parameters(limits),
    }


def _ensemble(
    metadata: Metadata, config: Mapping[str, Any], triton: Mapping[str, Any]
) -> dict[str, Any]:
    """The config of the decoder and the model behind each other."""
    decoder = _decoder(metadata, config, triton)["name"]
    outputs = {tensor["name"]: tensor["name"] for tensor in config["output"]}
    return {
        "name": metadata.name + JPEG,
        "platform": "ensemble",
        "max_batch_size": triton["max_batch_size"],
        "input": [ENCODED],
        "output": config["output"],
        "parameters": _parameters({"contract": metadata.to_json()}),
        "ensemble_scheduling": {
            "step": [
                step(decoder, {"ENCODED": "ENCODED"}, {"IMAGES": "IMAGES"}),
                step(metadata.name, {"IMAGES": "IMAGES"}, outputs),
            ]
        },
    }


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
    """Write the folder of one model below `staging`, whole, as if it were the first of its name.

    Args:
        config: of the model.
        classes: for the file of labels, if the config names one.
        model: the ONNX file, for the model that has it.
        version: for that model.
        staging: of this export.
        repository: what is published already.
    """
    folder, target = staging / config["name"], repository / config["name"]
    if config.get("backend") == "onnxruntime":
        (folder / version).mkdir(parents=True)
        shutil.copyfile(model, folder / version / "model.onnx")
    elif config.get("backend") == "python":  # another code is another version
        code, newest = DECODER.read_bytes(), max([0, *versions(target)])
        same = _has(target / str(newest) / "model.py", code)
        file = folder / str(newest if same else newest + 1) / "model.py"
        file.parent.mkdir(parents=True)
        file.write_bytes(code)
    else:
        (folder / "1").mkdir(parents=True)
    message = ParseDict(config, ModelConfig())
    labels = "".join(f"{label}\n" for label in classes).encode()
    # Labels that are there may be read until the end, so other ones get another name.
    names = chain([LABELS], (f"labels_{number}.txt" for number in count(int(version))))
    free = (name for name in names if not (target / name).exists() or _has(target / name, labels))
    name = next(free)
    for tensor in message.output:
        if tensor.label_filename:
            tensor.label_filename = name
            (folder / name).write_bytes(labels)
    (folder / CONFIG).write_text(text_format.MessageToString(message), "utf-8")


def _has(file: Path, content: bytes) -> bool:
    return file.is_file() and file.read_bytes() == content


def _misleads(ensemble: Path, new: Path) -> bool:
    """Whether an ensemble promises other things than the model below it soon will."""
    is_one = ensemble.name.endswith(JPEG) and (ensemble / CONFIG).exists()
    return is_one and _promise(ensemble / CONFIG) != _promise(new / CONFIG)


def _promise(file: Path) -> Any:
    """What a client of an ensemble relies on."""
    try:
        config = read_config(file)
        metadata = Metadata.from_json(config.parameters["contract"].string_value)
    except (UserError, ValueError, TypeError):
        return None
    promised = replace(metadata, network={}, data_hash="", git_commit="", run_id="")
    return promised, list(config.output), config.ensemble_scheduling


def _add(staged: Path, target: Path) -> None:
    """Put beside the versions and labels of a model those that its next config speaks of.

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
            write(target / CONFIG, text_format.MessageToString(config))
    for part in parts:
        os.replace(part, target / part.name)


def _switch(staged: Path, target: Path) -> None:
    """Have the new config read instead of the old one; both name only what is there."""
    if not target.exists():
        os.rename(staged, target)
    elif not _has(target / CONFIG, (staged / CONFIG).read_bytes()):  # the same needs no reload
        os.replace(staged / CONFIG, target / CONFIG)


def write(file: Path, content: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(file) as temporary:
        temporary.write_text(content)


def _tensor(tensor: onnxruntime.NodeArg) -> dict[str, Any]:
    kind = tensor.type
    dtype = DTYPES.get(kind, "TYPE_" + kind.removeprefix("tensor(").removesuffix(")").upper())
    dims = [dim if isinstance(dim, int) else -1 for dim in tensor.shape[1:]]
    return {"name": tensor.name, "data_type": dtype, "dims": dims}


def _parameters(texts: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {key: {"string_value": value} for key, value in texts.items()}


def step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    """A step of an ensemble: names of the model's tensors to names of the ensemble's."""
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": inputs,
        "output_map": outputs,
    }
