"""One thing is broken at a time in a tiny repository, and the check must say what and where."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_models import model_of

from nano_cv.export.validate import check_model, check_repository, main

NET = """\
name: "net"
backend: "onnxruntime"
max_batch_size: 4
input { name: "IMAGES" data_type: TYPE_UINT8 dims: [3, 4, 4] }
output { name: "SCORES" data_type: TYPE_FP32 dims: [5] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { preferred_batch_size: [2, 4] max_queue_delay_microseconds: 100 }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
parameters { key: "execution_mode" value { string_value: "0" } }
parameters { key: "contract" value { string_value: "{}" } }
model_warmup {
  name: "all" batch_size: 4
  inputs { key: "IMAGES" value { data_type: TYPE_UINT8 dims: [3, 4, 4] zero_data: true } }
}
"""
DECODE = """\
name: "decode"
backend: "python"
max_batch_size: 4
input { name: "ENCODED" data_type: TYPE_STRING dims: [1] }
input { name: "CROP" data_type: TYPE_INT32 dims: [4] optional: true }
output { name: "IMAGES" data_type: TYPE_UINT8 dims: [3, 4, 4] }
"""
MODEL_PY = 'class TritonPythonModel:\n    """Would fail if it ran."""\n\n    missing = undefined\n'


def network(batch: str | int = "N", side: str | int = 4, flat: bool = False) -> onnx.ModelProto:
    """`[N, 3, 4, 4]` of uint8 to `[N, 5]`, or flat to `[N]`."""
    shape, last = ("", "ReduceMax <axes = [1], keepdims = 0>") if flat else (",5", "Identity")
    return model_of(
        f"net (uint8[{batch},3,{side},{side}] IMAGES) => (float[{batch}{shape}] SCORES) "
        "<int64[2] shape = {48, 5}> { floats = Cast <to = 1> (IMAGES) rows = Flatten (floats) "
        "weights = ConstantOfShape (shape) all = MatMul (rows, weights) "
        f"SCORES = {last} (all) }}"
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "model_repository"
    for name, config in {"net": NET, "decode": DECODE}.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
    onnx.save(network(), root / "net" / "1" / "model.onnx")
    (root / "decode" / "1" / "model.py").write_text(MODEL_PY)
    (root / "README.md").write_text("No model.\n")
    (root / ".net.1.tmp").mkdir()
    return root


def plain(batch: str, dims: str) -> str:
    """A config without batching, labels and warm-up."""
    return (
        f'backend: "onnxruntime" input {{ name: "IMAGES" data_type: TYPE_UINT8 dims: {batch} }} '
        f'output {{ name: "SCORES" data_type: TYPE_FP32 dims: {dims} }}'
    )


FLAT = "[1] reshape { shape: [ ] }"
ALLOWED = {
    "a fixed input, the graph takes any": (network(side="S"), NET),
    "no batching": (network(batch=1), plain("[1, 3, 4, 4]", "[1, 5]")),
    "a batch dimension of its own": (network(), plain("[-1, 3, 4, 4]", "[-1, 5]")),
    "one number a picture": (network(flat=True), plain("[3, 4, 4]", FLAT) + " max_batch_size: 4"),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_allowed(repository, case):
    graph, config = ALLOWED[case]
    onnx.save(graph, repository / "net" / "1" / "model.onnx")
    (repository / "net" / "config.pbtxt").write_text(config)
    assert check_model(repository / "net") == []


def edit(old: str, new: str) -> Callable[[Path], object]:
    return write("net/config.pbtxt", NET.replace(old, new, 1).encode())


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / old).rename(root / new)


def write(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / file).write_bytes(content)


def save(model: onnx.ModelProto) -> Callable[[Path], object]:
    return lambda root: onnx.save(model, root / "net/1/model.onnx")


DAMAGE = [
    # what the config is
    (rename("net/config.pbtxt", "net/config"), ["config.pbtxt", "No such"]),
    (write("net/config.pbtxt", b"# \xe9\n"), ["config.pbtxt", "UTF-8"]),
    (edit("max_batch_size", "max_batchsize"), ["line 3", "'max_batch_size'?"]),
    (edit("TYPE_UINT8", "TYPE_UNIT8"), ["line 4", "did you mean 'TYPE_UINT8'?"]),
    # model
    (edit('name: "net"', 'name: "other"'), ["name: 'other'", "'net', is needed"]),
    (edit('backend: "onnxruntime"', ""), ["backend: ''", 'backend: "onnxruntime"']),
    (edit('"onnxruntime"', '"tensorrt"'), ["backend: 'tensorrt'"]),
    (rename("net/1", "net/001"), ["001/", "without leading zeros"]),
    (rename("net/1/model.onnx", "net/1/a"), ["1/model.onnx: missing"]),
    (rename("decode/1/model.py", "decode/1/a"), ["1/model.py: missing"]),
    (write("net/1/model.onnx", b"\xff" * 99), ["1/model.onnx: not a valid"]),
    # tensors
    (edit('"IMAGES"', '"IMAGE"'), ["did you mean 'IMAGES'?", "input: lacks 'IMAGES'"]),
    (edit('"SCORES"', '"SCORE"'), ["output 'SCORE'", "did you mean 'SCORES'?"]),
    (edit("output {", "#"), ["output: none; 1 or more", "SCORES"]),
    (edit("TYPE_UINT8", "TYPE_FP32"), ["'IMAGES': data_type: TYPE_FP32; TYPE_UINT8"]),
    (edit("[3, 4, 4]", "[3, 8, 8]"), ["dims: [3, 8, 8]; [3, 4, 4], as in 1/model.onnx"]),
    (edit("[3, 4, 4]", "[1, 3, 4, 4]"), ["dims: [1, 3, 4, 4]; [3, 4, 4]", "batch"]),
    (save(network(batch=1)), ["[1, 3, 4, 4]", "must be of any size"]),
    (save(network(flat=True)), ["dims: [5]; []"]),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGE, ids=[said[0] for _, said in DAMAGE])
def test_damage_is_named(repository, damage, expected):
    damage(repository)
    problems = [one for some in check_repository(repository).values() for one in some]
    for text in expected:
        assert text in "\n".join(problems)
    for problem in problems:
        assert ": " in problem and str(repository) not in problem.partition(": ")[0]


def test_damage_never_raises(repository):
    """Cut off anywhere, or with flipped bits: problems or none, but no exception."""
    for end in range(0, len(NET), 20):
        (repository / "net" / "config.pbtxt").write_text(NET[:end])
        assert isinstance(check_model(repository / "net"), list)
    (repository / "net" / "config.pbtxt").write_text(NET)
    file = repository / "net" / "1" / "model.onnx"
    good = file.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(200):
        bad = np.frombuffer(good, np.uint8).copy()
        bad[random.integers(0, len(bad), 4)] ^= random.integers(1, 256, 4, np.uint8)
        file.write_bytes(bad.tobytes())
        assert isinstance(check_model(repository / "net"), list)
    for end in range(0, len(good), 20):
        file.write_bytes(good[:end])
        assert check_model(repository / "net")


def test_command_line(repository, capsys):
    edit("[3, 4, 4]", "[3, 8, 8]")(repository)
    (repository / "empty").mkdir()
    assert main([str(repository)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "decode  ok"
    assert lines[1].startswith("empty  config.pbtxt: cannot be read")
    assert "net  config.pbtxt: input 'IMAGES': dims: [3, 8, 8]; [3, 4, 4]" in lines[-1]
    for folder in ("nowhere", "model_repository/README.md", "model_repository/empty"):
        assert main([str(repository.parent / folder)]) == 1
        out, err = capsys.readouterr()
        assert not out
        assert folder in err
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
