"""Bad pictures, weights, inputs and a full disk: one message, and nothing half-written."""

import errno
import os
import resource
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import CONTRACT, TINY
from safetensors.torch import load_file, save_file
from torch.utils.data import get_worker_info

from nano_cv.config.cli import stop
from nano_cv.data import datamodule, images
from nano_cv.metadata import Metadata
from nano_cv.tasks import weights

FILE = Path("weights/lenet_flowers.safetensors")


def test_bad_picture_in_the_set(fails, flowers, tmp_path):
    bad = flowers / "basil/plant010_rgb.jpg"
    bad.write_bytes(bad.read_bytes()[:600])
    other = flowers / "basil/plant003_rgb.jpg"  # of another split
    other.write_bytes(b"")
    said = fails("train", *TINY)
    for part, file in (("of 24", other), ("1 of 12", bad)):
        advice = f"{part} pictures cannot be used; mend or remove them:\n"
        assert f"{advice}  {file.relative_to(tmp_path)}: " in said
    assert not (tmp_path / "weights").exists()
    assert len(list((tmp_path / ".cache").iterdir())) == 2, "the training split only, whole"


def test_bad_picture_met_by_a_worker(fails, flowers, tmp_path):
    bad = flowers / "basil/plant003_rgb.jpg"
    bad.write_bytes(b"not a picture")
    said = fails("train", *TINY, "data.cache=null", "data.workers=1", "data.augment.flip=0")
    advice = "not a picture in a known format; save it as JPEG or PNG"
    assert said == f"error: {bad.relative_to(tmp_path)}: {advice}\n"


@pytest.mark.parametrize(
    ("act", "said"),
    [
        # As the system does where memory is short.
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "fewer data.workers need less"),
        # Where /dev/shm is full, workers can hand over no batch, and training would hang.
        (lambda: time.sleep(30), "timed out after 1 seconds"),
    ],
)
def test_workers_that_end_or_hand_over_nothing(fails, flowers, monkeypatch, act, said):
    decode = images.load

    def load(*arguments, **options):
        if get_worker_info():
            act()
        return decode(*arguments, **options)

    monkeypatch.setattr(images, "load", load)
    monkeypatch.setattr(datamodule, "PATIENCE", 1)
    told = fails("train", *TINY, "data.cache=null", "data.workers=1")
    assert said in told and ("DataLoader worker" in told or "docker run --shm-size=2g" in told)


def test_weights_missing_and_the_command_to_type(fails):
    said = fails("infer", *TINY)
    assert said == f"error: {FILE}: no such file. train.py with this data and model makes it\n"
    FILE.parent.mkdir()
    Path(f"{FILE}.dvc").touch()
    FILE.with_name("lenet_flower.safetensors").touch()
    said = fails("infer", *TINY)
    assert f"{FILE}: no such file; did you mean 'lenet_flower.safetensors'? Type: dvc pull" in said
    said = fails("infer", *TINY, "engine=onnx", "paths.models=my models")
    typed = said.rpartition("type: ")[2]
    assert typed.startswith("python export_model.py ") and "engine" not in typed
    assert "'paths.models=my models'" in typed and "model.image_size=32" in typed


def test_weights_of_other_options(fails, succeeds, flowers, untrained):
    said = fails("infer", *TINY, "model.task.network.channels=[4, 16]", "model.image_size=64")
    _, typed = said.rstrip().split("add: ")
    assert shlex.split(typed) == ["model.task.network.channels=[4, 8]", "model.image_size=32"]
    succeeds("infer", *TINY, "model.task.network.channels=[4, 16]", *shlex.split(typed))


def test_weights_of_other_model_or_classes(fails, flowers, untrained):
    tensors = load_file(untrained)
    for changed, answer in (
        ({"model": "vgg"}, "a model=vgg, not a model=lenet; type +model=vgg, or train"),
        ({"classes": ["a", "b", "c"]}, "know a, b, c, and data=flowers has aster, basil, clover"),
    ):
        metadata = Metadata(**asdict(CONTRACT) | changed)
        save_file(tensors, untrained, {"contract": metadata.to_json()})
        assert answer in fails("infer", *TINY)


def test_damaged_weights(fails, untrained):
    whole, tensors = untrained.read_bytes(), load_file(untrained)
    said, broken = {"contract": CONTRACT.to_json()}, CONTRACT.to_json().replace("aster", r"a\nb")
    bad = Path("bad.safetensors")
    damages: list[tuple[Callable[[], object], str]] = [
        (lambda: bad.write_bytes(whole[: len(whole) // 2]), "not a safetensors file, or cut short"),
        (lambda: bad.write_bytes(b""), "not a safetensors file, or cut short"),
        (lambda: save_file(tensors, bad), "holds no metadata; train.py did not write this file"),
        (lambda: save_file(tensors, bad, {"contract": broken}), "holds no metadata"),
        (
            lambda: save_file(tensors | {"classifier.bias": torch.zeros(9)}, bad, said),
            "not the weights of this lenet: classifier.bias",
        ),
        (lambda: (bad.unlink(), bad.mkdir()), "no model.safetensors in this folder"),
    ]
    for damage, answer in damages:
        damage()
        assert fails("infer", *TINY, f"weights={bad}").startswith(f"error: {bad}: {answer}")


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ("data/flowers/aster/plant001_rgb.jpg", 1),
        ("data/flowers/aster", 48),
        ("data/flowers/*/plant01?_rgb.jpg", 21),
        ("data/**/plant01?**.jpg", 21),
    ],
)
def test_inputs(succeeds, drawn, flowers, untrained, tmp_path, given, count):
    succeeds("infer", *TINY, f"input='{given}'")
    (table,) = tmp_path.glob("runs/infer/lenet_flowers/*/predictions.csv")
    header, *rows = table.read_text().splitlines()
    assert header == "file,label,aster,basil,clover" and len(rows) == count
    assert (table.parent / "predictions.png").exists()


def test_bad_inputs(fails, flowers, untrained, tmp_path):
    (tmp_path / "empty").mkdir()
    (flowers / "aster/broken.png").write_bytes(b"")
    for given, answer in {
        "gone.jpg": "no such file or folder, and no file fits it as a pattern",
        "empty": "no pictures in this folder; endings known: .apng .avif",
        "data/flowers/train.txt": "train.txt: not a picture in a known format",
        "data/flowers/aster/broken.png": "error: data/flowers/aster/broken.png: the file is empty",
    }.items():
        assert answer in fails("infer", *TINY, f"input={given}").replace(f"{tmp_path}/", "")
        assert "gone" not in given or not (tmp_path / "runs/infer").exists()


@pytest.mark.parametrize("cache", [".cache", "null"])
def test_two_pictures_among_many(fails, drawn, flowers, untrained, tmp_path, cache):
    for name in ("broken.png", "text.jpg"):
        (flowers / "aster" / name).write_bytes(b"no picture" * (name == "text.jpg"))
    said = fails("infer", *TINY, "input=data/flowers/aster", f"data.cache={cache}")
    error = said[said.index("error: ") :].replace(f"{tmp_path}/", "")
    assert error.splitlines() == [
        "error: 2 of 50 pictures cannot be used; mend or remove them:",
        "  data/flowers/aster/broken.png: the file is empty (0 bytes)",
        "  data/flowers/aster/text.jpg: not a picture in a known format; save it as JPEG or PNG",
    ]
    (table,) = tmp_path.glob("runs/infer/lenet_flowers/*/predictions.csv")
    assert len(table.read_text().splitlines()) == 1 + 48
    assert (table.parent / "predictions.png").exists()
    for file in (flowers / "aster").iterdir():
        if file.name not in ("broken.png", "text.jpg"):
            file.unlink()
    said = fails("infer", *TINY, "input=data/flowers/aster", f"data.cache={cache}")
    assert "2 of " in said, "none is left"


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """As if the disk were full: no file of this process may grow beyond so many bytes."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


@pytest.mark.parametrize(
    ("cache", "size", "where"), [(".cache", 70_000, ".cache/"), ("null", 40_000, "/runs/train/")]
)
def test_full_disk(fails, flowers, tmp_path, limit, cache, size, where):
    """While decoding, the cache being 74 kB, and while keeping an epoch, a checkpoint of 54 kB."""
    FILE.parent.mkdir()
    FILE.write_bytes(b"of an earlier run")
    limit(size)
    said = fails("train", *TINY, f"paths.cache={cache}")
    assert where in said and said.endswith(": File too large; free some space\n")
    assert list(tmp_path.glob(".cache/*")) == list(tmp_path.rglob("*.ckpt")) == []
    assert FILE.read_bytes() == b"of an earlier run"
    assert list(FILE.parent.iterdir()) == [FILE]


def test_closed_cache(fails, flowers):
    said = fails("train", *TINY, "paths.cache=/proc/cache")
    assert "/proc/cache: cannot be written to (" in said and "data.cache=null" in said


def test_full_disk_of_a_copy(fails, flowers, monkeypatch):
    """Named is the file that cannot be written, not the one that is kept."""
    FILE.parent.mkdir()
    FILE.write_bytes(b"of an earlier run")
    kept, write = FILE.with_suffix(".previous.safetensors"), Path.write_bytes

    def full(path: Path, content: bytes) -> None:
        if path.name.startswith(f".{kept.name}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert f"error: {kept}: {os.strerror(errno.ENOSPC)}; free" in fails("train", *TINY)
    assert FILE.read_bytes() == b"of an earlier run"


@pytest.mark.parametrize(
    ("number", "named"), [(errno.EACCES, "b"), (errno.ENOTDIR, "b"), (errno.ENOENT, "a")]
)
def test_of_a_copy_the_target_is_named_unless_its_source_is_missing(capsys, number, named):
    with pytest.raises(SystemExit):
        stop(OSError(number, "", "a", None, "b"))
    assert capsys.readouterr().err.startswith(f"error: {named}: {os.strerror(number)}")


def test_full_disk_while_saving_weights(fails, succeeds, flowers, monkeypatch):
    FILE.parent.mkdir()
    FILE.write_bytes(b"of an earlier run")

    def full(path: Path, content: bytes) -> None:
        weights = path.name.startswith(f".{FILE.name}")
        with path.open("wb") as file:
            file.write(content[:100] if weights else content)
        if weights:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        said = fails("train", *TINY)
    hint = "; free some space; to go on, add resume=true\n"
    assert said == f"error: {FILE}: {os.strerror(errno.EDQUOT)}{hint}"
    assert FILE.read_bytes() == b"of an earlier run"
    succeeds("train", *TINY, "resume=true")  # the message tells the truth
    assert weights.read_metadata(FILE).classes == CONTRACT.classes
