"""Makes, reads and writes `config.pbtxt`, the file that tells Triton how to serve a model."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nano_cv.errors import UserError, first_line, nearest
from nano_cv.evaluation.bfloat16 import HINT
from nano_cv.files import list_versions, write_whole
from nano_cv.metadata import JPEG, KEY, Metadata, height_width

CONFIG = "config.pbtxt"
LABELS = "labels.txt"
ENCODED = {"name": "ENCODED", "data_type": "TYPE_STRING", "dims": [1]}
DTYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}  # from ONNX; others are alike
Tensors = dict[str, tuple[str, list[int]]]  # data type and dims by name; a dim of -1 is any size


def read_config(file: Path) -> ModelConfig:
    """Parse a `config.pbtxt`; a `UserError` about a bad file names line and nearest field."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # not UTF-8
        raise UserError(f"{file}: cannot be read as UTF-8 ({error})") from error
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        line, message = error.GetLine() or text.count("\n") + 1, first_line(error)
        message = message.partition(" : ")[2] or message  # without line:column
        raise UserError(f"{file}: line {line}: {message.rstrip('.')}{_meant(message)}") from error


def _meant(message: str) -> str:
    """Return a hint: the known field or value spelt most like the unknown name in an error."""
    match = re.search(r'(Message|Enum) type "([\w.]+)" has no \w+ named "?(\w+)', message)
    pool = ModelConfig.DESCRIPTOR.file.pool
    if match and match[1] == "Enum":
        return nearest(match[3], pool.FindEnumTypeByName(match[2]).values_by_name)
    return nearest(match[3], pool.FindMessageTypeByName(match[2]).fields_by_name) if match else "."


def served_versions(folder: Path, config: ModelConfig) -> list[int]:
    """Return the versions that the version policy serves, ascending."""
    present = list_versions(folder)
    policy = config.version_policy
    if policy.HasField("specific"):
        return [version for version in present if version in policy.specific.versions]
    newest = len(present) if policy.HasField("all") else policy.latest.num_versions or 1
    return present[-newest:]


def write_config(file: Path, config: ModelConfig) -> None:
    """Write a `config.pbtxt`, whole or not at all."""
    write_whole(file, text_format.MessageToString(config))


def read_tensors(file: Path) -> tuple[Tensors, Tensors]:
    """Read the inputs and outputs of an ONNX file; raises what onnx raises for a damaged file."""
    import onnx  # imported late, as a server does without

    model = onnx.load(file)
    onnx.checker.check_model(model)
    # onnxruntime infers shapes too, so a server may know more shapes than the file states.
    graph = onnx.shape_inference.infer_shapes(model).graph
    weights = {tensor.name for tensor in graph.initializer}  # old files list them as inputs
    both: tuple[Tensors, Tensors] = {}, {}
    for tensors, values in zip(both, (graph.input, graph.output), strict=True):
        for value in values:
            dtype = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
            dims = value.type.tensor_type.shape.dim
            sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]
            if value.name not in weights:
                tensors[value.name] = f"TYPE_{DTYPES.get(dtype, dtype)}", sizes
    return both


def make_model_config(
    metadata: Metadata, model: Path, triton: Mapping[str, Any], entries: Mapping[str, str]
) -> dict[str, Any]:
    """Make the config of an ONNX model from the inputs and outputs of its graph."""
    batch = triton["max_batch_size"]
    inputs, outputs = (
        [
            {"name": name, "data_type": dtype, "dims": dims[1:]}
            for name, (dtype, dims) in tensors.items()
        ]
        for tensors in read_tensors(model)
    )
    for tensor in outputs:
        if tensor["dims"] == [len(metadata.classes)]:
            tensor["label_filename"] = LABELS
    zeros = {
        tensor["name"]: {key: tensor[key] for key in ("data_type", "dims")} | {"zero_data": True}
        for tensor in inputs
    }
    threads, in_openvino = str(count_threads(triton)), HINT in entries
    parameters = {"intra_op_thread_count": threads}
    if in_openvino:
        parameters = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1"}
    return {
        "name": metadata.name,
        "backend": "openvino" if in_openvino else "onnxruntime",
        "default_model_filename": "model.onnx",
        "max_batch_size": batch,
        "input": inputs,
        "output": outputs,
        "instance_group": [{"count": triton["instances"], "kind": "KIND_CPU"}],
        **_batching(triton, triton["max_queue_delay_us"]),
        "parameters": _parameters(parameters, metadata, entries),
        # Without warm-up the first requests would wait for onnxruntime's memory plan.
        "model_warmup": [
            {"name": f"batch of {size}", "batch_size": size, "inputs": zeros}
            for size in sorted({1, batch})
        ],
    }


def count_threads(triton: Mapping[str, Any]) -> int:
    """Return the threads per instance: `threads` of the options, or cores divided by instances."""
    return int(triton["threads"] or max(1, (os.cpu_count() or 1) // triton["instances"]))


def _batching(triton: Mapping[str, Any], delay: int | None) -> dict[str, Any]:
    """Return `dynamic_batching` for a delay, or for the queue policy if the options set one."""
    policy = {
        "max_queue_size": triton["max_queue_size"],
        "default_timeout_microseconds": triton["queue_timeout_us"],
    }
    stated = {key: value for key, value in policy.items() if value is not None}
    batching: dict[str, Any] = {} if delay is None else {"max_queue_delay_microseconds": delay}
    batching |= {"default_queue_policy": stated} if stated else {}
    return {"dynamic_batching": batching} if batching else {}


def make_jpeg_config(
    metadata: Metadata,
    config: Mapping[str, Any],
    triton: Mapping[str, Any],
    entries: Mapping[str, str],
) -> dict[str, Any]:
    """Make the config of the twin that takes encoded images, from the network's `config`.

    Each process of the twin decodes images and runs the network, on its share of the cores: sending
    pixels from process to process would cost more time than a common batch would gain.
    """
    instances = triton["decode_instances"]
    parameters = {
        "image_size": json.dumps(height_width(metadata.image_size)),
        "fit": metadata.fit,
        "max_picture_bytes": str(triton["max_picture_bytes"]),
        "max_picture_pixels": str(triton["max_picture_pixels"]),
        "intra_op_thread_count": str(max(1, (os.cpu_count() or 1) // instances)),
    }
    return {
        "name": metadata.name + JPEG,
        "backend": "python",
        "max_batch_size": triton["max_batch_size"],
        "input": [ENCODED],
        "output": config["output"],
        "instance_group": [{"count": instances, "kind": "KIND_CPU"}],
        "parameters": _parameters(parameters, metadata, entries),
        **_batching(triton, None),
    }


def _parameters(
    own: Mapping[str, str], metadata: Metadata, entries: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    texts = {**own, **entries, KEY: metadata.to_json()}
    return {key: {"string_value": value} for key, value in texts.items()}
