"""Check a Triton model repository without a server: `python -m nano_cv.export.validate FOLDER`.

Where Triton is installed, `process.prove` loads an export, so Triton itself judges it. This check
finds errors that Triton reports too late or never: names and files with which a load waits for
ever, and tensors that differ from the ONNX graph, which the wheel's server would report at the
first request, and NVIDIA's container at the load.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as schema
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nano_cv.errors import UserError, first_line, listing, nearest, printable
from nano_cv.export.triton_config import CONFIG, read_config, read_tensors, served_versions
from nano_cv.files import VERSION, list_versions
from nano_cv.metadata import NAME

FILES = {  # that a version is read from, where the config names none
    "onnxruntime": "model.onnx",
    "onnxruntime_onnx": "model.onnx",
    "openvino": "model.xml",
    "python": "model.py",
}
KINDS = {number: name for name, number in schema.DataType.items()}
MISREAD = re.compile(r"\s*[+-]?[0-9]")  # Triton takes `1_old` for version 1 and looks for `1`


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line per sound model and per problem; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nano_cv.export.validate",
        description="Check a Triton model repository; no server is needed. "
        "The exit status is 0 if every model is fine, else 1. Whether the models of an "
        "ensemble are there and fit, only Triton says.",
    )
    parser.add_argument("repository", type=Path, help="the folder that has a folder for each model")
    repository = parser.parse_args(arguments).repository
    try:
        results = check_repository(repository)
    except UserError as error:
        print(printable(str(error)), file=sys.stderr)
        return 1
    for name, problems in results.items():
        for line in problems or ["ok"]:
            print(printable(f"{name}  {line}"))
    return int(any(results.values()))


def check_repository(repository: Path) -> dict[str, list[str]]:
    """Return the problems of every model, by name; skips hidden folders.

    Raises:
        UserError: `repository` is no folder, cannot be read, or has no model.
    """
    try:
        folders = sorted(path for path in repository.iterdir() if path.is_dir())
    except OSError as error:
        raise UserError(f"{repository}: not a model repository ({error.strerror})") from error
    results = {path.name: check_model(path) for path in folders if path.name[0] != "."}
    if not results:
        raise UserError(f"{repository}: no model; a folder for each, with {CONFIG}, is needed")
    return results


def check_model(folder: Path, versions: Sequence[int] | None = None) -> list[str]:
    """Return the problems of a model, each with file and field; empty if the model is sound.

    Checked are `versions`, by default those that the config serves. The models of an ensemble are
    not looked for.
    """
    try:
        config = read_config(folder / CONFIG)
        return [*_check_names(config, folder), *_check_versions(config, folder, versions)]
    except UserError as error:
        return [str(error).replace(str(folder / CONFIG), CONFIG, 1)]
    except OSError as error:
        return [f"{error.filename}: cannot be read ({error.strerror})"]


def _check_names(config: ModelConfig, folder: Path) -> Iterator[str]:
    name = config.name or folder.name
    if not NAME.fullmatch(name):
        yield f"{CONFIG}: name: '{name}'; only letters, digits, '_', '-' and '.' are allowed"
    if name != folder.name:
        yield f"{CONFIG}: name: '{name}'; the folder's name, '{folder.name}', is needed"
    if _file(config) is None and config.platform != "ensemble":
        yield (
            f"{CONFIG}: backend: '{config.backend}' with platform: '{config.platform}'; served "
            'here are backend: "onnxruntime", "openvino" or "python", and platform: "ensemble"'
        )
    for path in sorted(folder.iterdir()):
        if path.is_dir() and MISREAD.match(path.name) and not VERSION.fullmatch(path.name):
            yield f"{path.name}/: a version is a whole number from 1 on, without leading zeros"


def _file(config: ModelConfig) -> str | None:
    """Return the file name of a version, such as `model.onnx`; None for an ensemble."""
    return config.default_model_filename or FILES.get(config.backend or config.platform)


def _check_versions(
    config: ModelConfig, folder: Path, versions: Sequence[int] | None
) -> Iterator[str]:
    if not list_versions(folder):
        yield "no version: a folder 1/ is needed"
    for version in served_versions(folder, config) if versions is None else versions:
        name = f"{version}/{_file(config) or ''}"
        if not (folder / name).exists():
            yield f"{name}: missing"
        elif name.endswith(".onnx"):
            yield from _check_graph(config, folder / name, name)


def _check_graph(config: ModelConfig, file: Path, name: str) -> Iterator[str]:
    """Yield the inputs and outputs of the config that differ from those of the ONNX file."""
    try:
        inputs, outputs = read_tensors(file)
    except Exception as error:  # the kind of exception depends on the damage
        yield f"{name}: not a valid ONNX model: {first_line(error)}"
        return
    for missing in sorted(inputs.keys() - {tensor.name for tensor in config.input}):
        yield f"{CONFIG}: input: lacks '{missing}', which {name} needs"
    if not config.output:
        yield f"{CONFIG}: output: none; 1 or more is needed of {listing(outputs)}"
    batched = config.max_batch_size > 0
    for part, tensors, known in (
        ("input", config.input, inputs),
        ("output", config.output, outputs),
    ):
        for tensor in tensors:
            at = f"{CONFIG}: {part} '{tensor.name}'"
            if tensor.name not in known:
                close = nearest(tensor.name, known)
                yield f"{at}: no such name in {name}{close} It has: {listing(known) or 'none'}"
                continue
            dtype, dims = known[tensor.name]
            actual = KINDS.get(tensor.data_type, str(tensor.data_type))
            if actual != dtype:
                yield f"{at}: data_type: {actual}; {dtype}, as in {name}, is needed"
            own = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
            if batched and dims[:1] != [-1]:
                yield f"{at}: {name} has dims {dims}; the first must be of any size for batching"
            elif not _fits(own, dims[batched:], part == "input"):
                behind = " behind the batch dimension" if batched else ""
                yield f"{at}: dims: {own}; {dims[batched:]}, as in {name}{behind}, is needed"


def _fits(own: Sequence[int], dims: Sequence[int], narrower: bool) -> bool:
    """Return whether dims of the config fit a graph's; `narrower` lets them fix free sizes."""
    return len(own) == len(dims) and all(
        dim == other or (other == -1 and narrower) for dim, other in zip(own, dims, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
