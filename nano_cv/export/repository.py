"""The Triton model repository: config.pbtxt, labels, versions, and the ensemble that takes JPEG.

A version is laid out beside the repository (in it, Triton would read even a hidden folder), checked
there by Triton's rules, and renamed into place: a server sees whole versions or nothing.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime
from google.protobuf import text_format
from google.protobuf.json_format import ParseDict
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nano_cv.contract import Contract
from nano_cv.errors import UserError, listing
from nano_cv.export.validate import check_model
from nano_cv.files import replacing

DECODER = Path(__file__).parents[1] / "serving" / "backends" / "decode" / "model.py"
DTYPES = {  # of ONNX, as onnxruntime names them; the rest are alike
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(double)": "TYPE_FP64",
}


def publish(
    repository: Path,
    contract: Contract,
    model: Path,
    triton: Mapping[str, Any],
    entries: Mapping[str, str],
) -> Path:
    """Add `model` as the next version of `<model>_<data>`, and the ensemble that decodes for it.

    Args:
        repository: of Triton; made if it is not there.
        contract: what the model promises.
        model: an ONNX file.
        triton: the options of `configs/triton`.
        entries: session entries that the model wants, see `precision.py`.

    Returns:
        The folder of the new version.

    Raises:
        UserError: Triton would refuse this; nothing is left behind.
    """
    repository.mkdir(parents=True, exist_ok=True)
    name, target = contract.name, repository / contract.name
    config = model_config(contract, onnxruntime.InferenceSession(model), triton, entries)
    version = str(max([0, *versions(target)]) + 1)
    with _staging(repository, name) as folder:
        (folder / version).mkdir()
        shutil.copyfile(model, folder / version / "model.onnx")
        write(folder / "config.pbtxt", text(config))
        write(folder / "labels.txt", "".join(f"{label}\n" for label in contract.classes))
        _demand(folder, repository)
        if not target.exists():
            os.rename(folder, target)
        else:  # the version comes last: until then the server has no reason to look
            for file in ("labels.txt", "config.pbtxt"):
                write(target / file, (folder / file).read_text())
            os.rename(folder / version, target / version)
    if [tensor["name"] for tensor in config["input"]] == ["IMAGES"]:
        _publish_ensemble(repository, contract, config, triton)
    return target / version


def versions(folder: Path) -> list[int]:
    """The versions of a model, ascending."""
    return sorted(int(path.name) for path in folder.glob("[1-9]*") if path.name.isdigit())


def model_config(
    contract: Contract,
    session: onnxruntime.InferenceSession,
    triton: Mapping[str, Any],
    entries: Mapping[str, str],
) -> dict[str, Any]:
    """The config of an ONNX model, derived from its graph."""
    batch, instances = triton["max_batch_size"], triton["instances"]
    inputs = [_tensor(tensor) for tensor in session.get_inputs()]
    outputs = [_tensor(tensor) for tensor in session.get_outputs()]
    for tensor in outputs:
        if tensor["dims"] == [len(contract.classes)]:
            tensor["label_filename"] = "labels.txt"
    zeros = {
        tensor["name"]: {key: tensor[key] for key in ("data_type", "dims")} | {"zero_data": True}
        for tensor in inputs
    }
    parameters = {
        "intra_op_thread_count": str(threads(triton)),
        **entries,
        "contract": contract.to_json(),
    }
    return {
        "name": contract.name,
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


def _publish_ensemble(
    repository: Path, contract: Contract, config: Mapping[str, Any], triton: Mapping[str, Any]
) -> None:
    size, fit = contract.image_size, contract.fit
    images = {key: config["input"][0][key] for key in ("name", "data_type", "dims")}
    encoded = {"name": "ENCODED", "data_type": "TYPE_STRING", "dims": [1]}
    limits = {
        "max_picture_bytes": str(triton["max_picture_bytes"]),
        "max_picture_pixels": str(triton["max_picture_pixels"]),
        "fit": fit,
    }
    # No dynamic batching: a picture decodes alone, and the next model batches anew.
    decoder = {
        "name": f"decode_{size}" + ("" if fit == "stretch" else f"_{fit}"),
        "backend": "python",
        "max_batch_size": triton["max_batch_size"],
        "input": [encoded],
        "output": [images],
        "instance_group": [{"count": triton["decode_instances"], "kind": "KIND_CPU"}],
        "parameters": _parameters(limits),
    }
    outputs = [tensor["name"] for tensor in config["output"]]
    ensemble = {
        "name": f"{contract.name}_from_jpeg",
        "platform": "ensemble",
        "max_batch_size": triton["max_batch_size"],
        "input": [encoded],
        "output": config["output"],
        "parameters": _parameters({"contract": contract.to_json()}),
        "ensemble_scheduling": {
            "step": [
                step(decoder["name"], {"ENCODED": "ENCODED"}, {"IMAGES": "IMAGES"}),
                step(contract.name, {"IMAGES": "IMAGES"}, {name: name for name in outputs}),
            ]
        },
    }
    labels = (repository / contract.name / "labels.txt").read_text()
    _place(repository, decoder, {"1/model.py": DECODER.read_text()})
    _place(repository, ensemble, {"labels.txt": labels})


def _place(repository: Path, config: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Put a model without weights of its own in place; its one version is replaced file by file."""
    target = repository / config["name"]
    files = {**files, "config.pbtxt": text(config)}
    with _staging(repository, config["name"]) as folder:
        (folder / "1").mkdir()
        for name, content in files.items():
            write(folder / name, content)
        _demand(folder, repository)
        if not target.exists():
            os.rename(folder, target)
            return
    (target / "1").mkdir(exist_ok=True)
    for name, content in files.items():
        if not (target / name).exists() or (target / name).read_text() != content:
            write(target / name, content)


@contextmanager
def _staging(repository: Path, name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=repository.absolute().parent))
    folder.chmod(0o755)  # else the container's own user could not read it
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _demand(folder: Path, repository: Path) -> None:
    problems = check_model(folder, repository)
    if problems:
        raise UserError(
            "Triton would refuse this model, so nothing was published: "
            + listing(problems, separator="; ")
        )


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
