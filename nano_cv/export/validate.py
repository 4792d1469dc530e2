"""Check a Triton model repository without a server: `python -m nano_cv.export.validate FOLDER`.

The rules are those of Triton 24.10 and of its C++ onnxruntime backend. A server may not tell: the
Python-based backend can find a wrong config at the first request only, and a load waits for ever
for a `model.py` that is missing.
"""

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from importlib.util import decode_source
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nano_cv.contract import NAME
from nano_cv.errors import UserError, first_line, listing, nearest

CONFIG = "config.pbtxt"
KINDS = {  # (backend, platform): what is served here
    ("onnxruntime", ""): "onnx",
    ("onnxruntime", "onnxruntime_onnx"): "onnx",
    ("", "onnxruntime_onnx"): "onnx",
    ("python", ""): "python",
    ("", "ensemble"): "ensemble",
}
FILES = {"onnx": "model.onnx", "python": "model.py"}
DTYPES = {"FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "DOUBLE": "TYPE_FP64"} | {
    kind: f"TYPE_{kind}"
    for kind in ("BOOL", "STRING", *(f"{u}INT{n}" for u in ("", "U") for n in (8, 16, 32, 64)))
}
PARAMETERS = {  # of onnxruntime: the highest value
    "intra_op_thread_count": 1024,  # more than any machine has cores
    "inter_op_thread_count": 1024,
    "execution_mode": 1,
    "enable_mem_arena": 1,  # the C++ backend takes "true" too, the Python-based one does not
    "enable_mem_pattern": 1,
}
UNKNOWN = "not known to this check; no model of this project needs it"
VERSION = re.compile(r"[1-9][0-9]{0,17}")
MISREAD = re.compile(r"\s*[+-]?[0-9]")  # Triton takes `1_old` for version 1 and looks for `1`


class Tensor(NamedTuple):
    """What has to agree between two ends; a dimension of -1 is of any size."""

    dtype: str
    dims: list[int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each model, or for each of its problems; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nano_cv.export.validate",
        description="Check a Triton model repository; no server is needed. "
        "The exit status is 0 if every model is fine, else 1.",
    )
    parser.add_argument("repository", type=Path, help="the folder that has a folder for each model")
    repository = parser.parse_args(arguments).repository
    try:
        results = check_repository(repository)
        for name, problems in results.items():
            if not problems:
                served = served_versions(repository / name, read_config(repository / name / CONFIG))
                problems = [f"ok, version{'s' * (len(served) > 1)} {', '.join(map(str, served))}"]
            for line in problems:  # the name of a file may have bytes that are no text
                print(f"{name}  {line}".encode(errors="backslashreplace").decode())
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return int(any(results.values()))


def check_repository(repository: Path) -> dict[str, list[str]]:
    """The problems of every model; hidden folders are exports under way, and passed over.

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


def check_model(
    folder: Path, repository: Path | None = None, versions: Sequence[int] | None = None
) -> list[str]:
    """The problems of one model, each naming file and field; none if a server can have it.

    Args:
        folder: of the model; a hidden one need not have the model's name.
        repository: where the steps of an ensemble are; by default the folder's parent.
        versions: to be checked instead of those that the version policy serves.
    """
    problems: list[str] = []
    try:
        config = read_config(folder / CONFIG)
        for problem in _check_config(config, folder, repository or folder.parent):
            problems.append(f"{CONFIG}: {problem}")
        for problem in _check_versions(config, folder, versions):
            problems.append(problem)
    except UserError as error:
        problems.append(str(error).replace(str(folder / CONFIG), CONFIG, 1))
    except OSError as error:
        problems.append(f"{error.filename}: cannot be read ({error.strerror})")
    return problems


def read_config(file: Path) -> ModelConfig:
    """Parse a `config.pbtxt`.

    Raises:
        UserError: it cannot be read or parsed; says where, and which field may have been meant.
    """
    text = _read(file)
    if text.startswith("\ufeff"):
        raise UserError(f"{file}: line 1: a byte order mark, which Triton refuses; save without it")
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        line, said = error.GetLine() or text.count("\n") + 1, first_line(error)
        said = said.partition(" : ")[2] or said  # without line:column
        raise UserError(f"{file}: line {line}: {said.rstrip('.')}{_meant(said)}") from error


def _meant(said: str) -> str:
    """The field or value that is spelt like the unknown one in an error of protobuf."""
    found = re.search(r'(Message|Enum) type "([\w.]+)" has no \w+ named "?(\w+)', said)
    pool = ModelConfig.DESCRIPTOR.file.pool
    if found and found[1] == "Enum":
        return nearest(found[3], pool.FindEnumTypeByName(found[2]).values_by_name)
    return nearest(found[3], pool.FindMessageTypeByName(found[2]).fields_by_name) if found else "."


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # UnicodeDecodeError; a name with a null byte
        raise UserError(f"{file}: cannot be read as UTF-8 ({error})") from error


def served_versions(folder: Path, config: ModelConfig) -> list[int]:
    """The versions that the version policy serves, ascending."""
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    present = sorted(int(name) for name in names if VERSION.fullmatch(name))
    policy = config.version_policy
    choice = policy.WhichOneof("policy_choice") or "default"
    if choice == "specific":
        return [version for version in present if version in policy.specific.versions]
    newest = {"all": len(present), "latest": policy.latest.num_versions, "default": 1}[choice]
    return present[-newest:] if newest else []


def _check_versions(
    config: ModelConfig, folder: Path, versions: Sequence[int] | None
) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and MISREAD.match(path.name) and not VERSION.fullmatch(path.name):
            yield f"{path.name}/: a version is a whole number from 1 on, without leading zeros"
    wanted = versions
    if wanted is None:
        wanted = served_versions(folder, config)
        if not wanted:
            yield "no version: a folder 1/ is needed, and a version_policy that serves it"
        for version in sorted({*config.version_policy.specific.versions} - {*wanted}):
            yield f"{CONFIG}: version_policy: version {version}: a folder {version}/ is needed"
    kind = KINDS.get((config.backend, config.platform), "")
    for version in wanted:
        name = f"{version}/{config.default_model_filename or FILES.get(kind, '')}"
        if not (folder / str(version)).is_dir():
            yield f"{version}/: missing"
        elif kind in FILES and not (folder / name).is_file():
            yield f"{name}: missing"
        elif kind == "python":
            yield from _check_python(folder, name)
        elif kind == "onnx":
            yield from _check_onnx(config, folder, name)


def _check_python(folder: Path, name: str) -> Iterator[str]:
    """Compiled, never run."""
    try:
        with warnings.catch_warnings(action="ignore"):
            source = decode_source((folder / name).read_bytes())
            code = compile(source, name, "exec", dont_inherit=True)
    except Exception as error:  # SyntaxError, ValueError, RecursionError, ...
        yield f"{name}: does not compile: {first_line(error)}"
    else:
        if "TritonPythonModel" not in code.co_names:
            yield f"{name}: no class TritonPythonModel, which the python backend needs"


def _check_onnx(config: ModelConfig, folder: Path, name: str) -> Iterator[str]:
    try:
        inputs, outputs = _read_graph(folder / name)
    except UserError as error:
        yield f"{name}: {error}"
        return
    for missing in sorted(inputs.keys() - {tensor.name for tensor in config.input}):
        yield f"{CONFIG}: input: lacks '{missing}', which {name} needs"
    if not config.output:
        yield f"{CONFIG}: output: none; 1 or more is needed of {listing(outputs)}"
    # Triton holds a request against the config, so an input may be narrower than the graph takes.
    for part, tensors, known, open_ends in (
        ("input", config.input, inputs, 1),
        ("output", config.output, outputs, 0),
    ):
        for tensor in tensors:
            at = f"{CONFIG}: {part} '{tensor.name}'"
            if tensor.name not in known:
                yield _no_such(f"{CONFIG}: {part}", tensor.name, known, name)
                continue
            if part == "input" and tensor.optional:
                yield f"{at}: optional: true; {name} cannot do without this input"
            (dtype, dims), owner = known[tensor.name], name
            if config.max_batch_size > 0:
                if dims[:1] != [-1]:
                    yield (
                        f"{at}: {name} has dims {dims}; a first dimension of any size is needed "
                        f"for max_batch_size: {config.max_batch_size}"
                    )
                    continue
                dims, owner = dims[1:], f"{name} behind the batch dimension"
            given = _of_config(tensor)
            if tensor.HasField("reshape"):
                given = Tensor(given.dtype, list(tensor.reshape.shape))
            elif not dims and config.max_batch_size < 1:  # a scalar
                dims = [1]
            yield from _compare(at, given, Tensor(dtype, dims), owner, open_ends)


def _read_graph(file: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and outputs of an ONNX file.

    Raises:
        UserError: it is damaged.
    """
    try:
        model = onnx.load(file)
        onnx.checker.check_model(model)
        # onnxruntime infers shapes too, so a server may know more than the file says
        graph = onnx.shape_inference.infer_shapes(model).graph
        weights = {tensor.name for tensor in graph.initializer}  # in old files also inputs
        inputs = {one.name: _of_graph(one) for one in graph.input if one.name not in weights}
        return inputs, {one.name: _of_graph(one) for one in graph.output}
    except Exception as error:  # each kind of damage has its own
        raise UserError(f"not a valid ONNX model: {first_line(error)}") from error


def _of_graph(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Tensor(str(kind), [])
    dtype = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    dims = value.type.tensor_type.shape.dim
    sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]
    return Tensor(DTYPES.get(dtype, dtype), sizes)


def _of_config(tensor: Any) -> Tensor:
    return Tensor(_word(schema.DataType, tensor.data_type), list(tensor.dims))


def _word(enum: Any, number: int) -> str:
    return str(enum.Name(number)) if number in enum.values() else str(number)


def _no_such(at: str, name: str, known: Collection[str], owner: str) -> str:
    close = nearest(name, known)
    return f"{at} '{name}': no such name in {owner}{close} It has: {listing(known) or 'none'}"


def _compare(at: str, given: Tensor, needed: Tensor, owner: str, open_ends: int) -> Iterator[str]:
    """Differences; a -1 fits all in neither (0), in what is needed (1), or in either (2)."""
    if given.dtype != needed.dtype:
        yield f"{at}: data_type: {given.dtype}; {needed.dtype}, as in {owner}, is needed"
    fits = len(given.dims) == len(needed.dims) and all(
        one == other or (other == -1 and open_ends > 0) or (one == -1 and open_ends > 1)
        for one, other in zip(given.dims, needed.dims, strict=True)
    )
    if not fits:
        dims = needed.dims or "[1] with reshape { shape: [ ] }"
        yield f"{at}: dims: {given.dims}; {dims}, as in {owner}, is needed"


def _check_config(config: ModelConfig, folder: Path, repository: Path) -> Iterator[str]:
    """What needs no model file."""
    name, hidden = config.name or folder.name, folder.name.startswith(".")
    if not NAME.fullmatch(name) and not (hidden and not config.name):
        yield f"name: '{name}'; only letters, digits, '_', '-' and '.' are allowed"
    if name != folder.name and not hidden:
        yield f"name: '{name}'; the folder's name, '{folder.name}', is needed"
    kind = KINDS.get((config.backend, config.platform))
    if kind is None:
        yield (
            f"backend: '{config.backend}' with platform: '{config.platform}'; served here are "
            'backend: "onnxruntime", backend: "python" and platform: "ensemble"'
        )
    batch = config.max_batch_size
    if batch < 0:
        yield f"max_batch_size: {batch}; 0 or more is needed"
    yield from _unwanted(config, ("sequence_batching", "batch_input", "batch_output"), UNKNOWN)
    for part, tensors in (("input", config.input), ("output", config.output)):
        yield from _check_tensors(part, tensors, folder)
    if config.HasField("dynamic_batching"):
        if batch < 1:
            yield f"dynamic_batching: max_batch_size: {batch}; 1 or more is needed for it"
        for size in config.dynamic_batching.preferred_batch_size:
            if not 1 <= size <= batch:
                yield f"dynamic_batching: preferred_batch_size: {size}; 1 to {batch} is needed"
    for key in sorted(PARAMETERS.keys() & config.parameters.keys()):
        value, most = config.parameters[key].string_value, PARAMETERS[key]
        if not re.fullmatch("[0-9]{1,9}", value) or int(value) > most:
            yield f"parameters '{key}': '{value}'; a whole number of 0 to {most} is needed"
    if kind == "ensemble":
        yield from _check_ensemble(config, repository)
        if name in _below(config, repository, set()):
            yield f"ensemble_scheduling: '{name}' is a step of itself"
        return
    yield from _unwanted(config, ("ensemble_scheduling",), 'needs platform: "ensemble"')
    for number, group in enumerate(config.instance_group):
        yield from (f"instance_group {number}: {problem}" for problem in _check_instances(group))
    for number, warmup in enumerate(config.model_warmup):
        yield from _check_warmup(f"model_warmup {number}", warmup, config, folder)


def _unwanted(message: Any, fields: Collection[str], reason: str) -> Iterator[str]:
    for field, _ in message.ListFields():
        if field.name in fields:
            yield f"{field.name}: {reason}"


def _check_tensors(part: str, tensors: Sequence[Any], folder: Path) -> Iterator[str]:
    for name, count in Counter(tensor.name for tensor in tensors).items():
        if count > 1 or not name:
            yield f"{part} '{name}': given {count} times; a name of its own is needed"
    for tensor in tensors:
        at, dtype = f"{part} '{tensor.name}'", _word(schema.DataType, tensor.data_type)
        if tensor.data_type not in schema.DataType.values()[1:]:
            yield f"{at}: data_type: {dtype}; TYPE_FP32 or another is needed"
        if not tensor.dims or any(dim < 1 and dim != -1 for dim in tensor.dims):
            yield f"{at}: dims: {list(tensor.dims)}; each 1 or more is needed, or -1 for any size"
        if tensor.HasField("reshape") and _blocks(tensor.dims) != _blocks(tensor.reshape.shape):
            shape = list(tensor.reshape.shape)
            yield f"{at}: reshape: {shape}; as many elements as in dims are needed"
        for problem in _unwanted(tensor, ("allow_ragged_batch",), UNKNOWN):
            yield f"{at}: {problem}"
        if part == "output" and tensor.label_filename:
            yield from (f"{at}: label_filename: {problem}" for problem in _labels(tensor, folder))


def _blocks(dims: Sequence[int]) -> list[int]:
    """The number of elements before, between and behind the dimensions of any size."""
    blocks = [1]
    for dim in dims:
        blocks = [*blocks, 1] if dim == -1 else [*blocks[:-1], blocks[-1] * dim]
    return blocks


def _labels(output: Any, folder: Path) -> Iterator[str]:
    name = output.label_filename
    try:
        lines = _read(folder / name).rstrip().split("\n")
    except UserError as error:
        yield str(error).replace(str(folder / name), name, 1)
        return
    if not all(line.strip() for line in lines):
        yield f"{name}: an empty line, which shifts the labels behind it"
    elif output.dims and output.dims[-1] not in (-1, len(lines)):
        yield f"{name}: {len(lines)} lines; {output.dims[-1]}, the last of dims, is needed"


def _check_instances(group: Any) -> Iterator[str]:
    kind = _word(group.Kind, group.kind)
    if group.count < 1:  # also when left out: Triton would choose 1, or 2 for onnxruntime
        yield f"count: {group.count}; 1 or more is needed"
    if kind not in group.Kind.keys():  # noqa: SIM118
        yield f"kind: {kind}; KIND_CPU or another is needed"
    if kind == "KIND_GPU" and not any(Path("/dev").glob("nvidia[0-9]*")):
        yield f"kind: {kind}; KIND_CPU or KIND_AUTO is needed, there is no GPU here"
    if kind in ("KIND_CPU", "KIND_MODEL") and group.gpus:
        yield f"gpus: {list(group.gpus)}; kind: KIND_GPU or KIND_AUTO is needed for them"


def _check_warmup(at: str, warmup: Any, config: ModelConfig, folder: Path) -> Iterator[str]:
    most = max(1, config.max_batch_size)
    if not 1 <= warmup.batch_size <= most:
        yield f"{at}: batch_size: {warmup.batch_size}; 1 to {most} is needed"
    known = {tensor.name: tensor for tensor in config.input}
    yield from _lacking(f"{at}: inputs", config.input, warmup.inputs)
    for name, given in warmup.inputs.items():
        if name not in known:
            yield _no_such(f"{at}: inputs", name, known, CONFIG)
            continue
        ends = (_of_config(given), _of_config(known[name]))
        where = f"{at}: inputs '{name}'"
        yield from _compare(where, *ends, "the input", open_ends=1)
        if -1 in given.dims:
            yield f"{where}: dims: {list(given.dims)}; a number for each is needed"
        source = given.WhichOneof("input_data_type")
        file = f"warmup/{given.input_data_file}"
        if source is None:
            yield f"{where}: no data; zero_data: true or random_data: true is needed"
        if source == "input_data_file" and not (folder / file).is_file():
            yield f"{where}: input_data_file: {file} is missing"


def _lacking(at: str, tensors: Sequence[Any], given: Collection[str]) -> Iterator[str]:
    for tensor in tensors:
        if not tensor.optional and tensor.name not in given:
            yield f"{at}: lacks '{tensor.name}'"


def _check_ensemble(config: ModelConfig, repository: Path) -> Iterator[str]:
    fields = ("instance_group", "optimization", "model_warmup")
    yield from _unwanted(config, fields, "not allowed in an ensemble; set it for its steps")
    steps, most = config.ensemble_scheduling.step, config.max_batch_size
    if not steps:
        yield "ensemble_scheduling: no step; 1 or more is needed"
    ends = {  # of each tensor: the first, to which all others are compared
        tensor.name: (_of_config(tensor), most > 0, "the ensemble itself")
        for tensor in [*config.input, *config.output]
    }
    for number, step in enumerate(steps):
        at = f"step {number} '{step.model_name}'"
        try:
            model = _model_of(step, repository)
        except UserError as error:
            yield f"{at}: {error}"
            continue
        limit = model.max_batch_size
        if 0 < limit < most:
            yield f"max_batch_size: {most}; at most {limit} is needed, as in '{step.model_name}'"
        yield from _lacking(f"{at}: input_map", model.input, step.input_map)
        for part, names, tensors in (
            ("input_map", step.input_map, model.input),
            ("output_map", step.output_map, model.output),
        ):
            known = {tensor.name: tensor for tensor in tensors}
            if not names:
                yield f"{at}: {part}: empty; 1 or more is needed of {listing(known)}"
            for name, outer in names.items():
                if name in known:
                    end = (_of_config(known[name]), limit > 0, f"'{step.model_name}'")
                    first = ends.setdefault(outer, end)
                    yield from _compare_ends(f"{at}: {part} '{name}'", end, first)
                else:
                    yield _no_such(f"{at}: {part}", name, known, step.model_name)
    yield from _check_flow(config)


def _compare_ends(
    at: str, one: tuple[Tensor, bool, str], other: tuple[Tensor, bool, str]
) -> Iterator[str]:
    """As they are, and with the batch dimension that one of them may have among its dims."""
    plain = list(_compare(at, one[0], other[0], other[2], open_ends=2))
    here, there = (Tensor(end[0].dtype, [-1] * end[1] + end[0].dims) for end in (one, other))
    full = list(_compare(at, here, there, other[2], open_ends=2))
    yield from min(plain, full, key=len)


def _model_of(step: Any, repository: Path) -> ModelConfig:
    folder = repository / step.model_name
    if not step.model_name or not folder.is_dir():
        names = sorted(path.parent.name for path in repository.glob(f"[!.]*/{CONFIG}"))
        raise UserError(f"model_name: no such model{nearest(step.model_name, names)}")
    config = read_config(folder / CONFIG)
    served = served_versions(folder, config)
    if not served:
        raise UserError("model_name: this model has no version that is served")
    if step.model_version not in (-1, *served):
        raise UserError(f"model_version: {step.model_version}; -1 or one of {served} is needed")
    return config


def _below(config: ModelConfig, repository: Path, seen: set[str]) -> set[str]:
    """The names of an ensemble's steps, and of theirs."""
    for name in {step.model_name for step in config.ensemble_scheduling.step} - seen:
        seen.add(name)
        try:
            _below(read_config(repository / name / CONFIG), repository, seen)
        except UserError:
            continue  # told where that step is checked
    return seen


def _check_flow(config: ModelConfig) -> Iterator[str]:
    """Each tensor of an ensemble has one source and a use, and no step waits for itself."""
    waiting = list(config.ensemble_scheduling.step)
    ready = {tensor.name for tensor in config.input}
    made = [name for step in waiting for name in step.output_map.values()]
    sources = Counter([*ready, *made])
    used = {name for step in waiting for name in step.input_map.values()}
    used |= {tensor.name for tensor in config.output}
    for name in sorted(used - sources.keys()):
        yield _no_such("tensor", name, sources, "the ensemble")
    for name in sorted(sources.keys() - used):
        yield f"tensor '{name}': never used"
    for name, count in sources.items():
        if count > 1:
            yield f"tensor '{name}': comes from {count} places; 1 is needed"
    ready |= used - sources.keys()  # told above
    while able := [step for step in waiting if ready.issuperset(step.input_map.values())]:
        ready.update(name for step in able for name in step.output_map.values())
        waiting = [step for step in waiting if step not in able]
    if waiting:
        names = listing(step.model_name for step in waiting)
        yield f"ensemble_scheduling: these steps wait for each other: {names}"


if __name__ == "__main__":
    sys.exit(main())
