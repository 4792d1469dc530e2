"""What `export_model.py` leaves in the model repository, and what it refuses to."""

import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import CONTRACT, TINY, compose, has_triton, make_flowers, rename_class, run_in
from onnx import TensorProto, numpy_helper
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny_models import publish_as as publish

from nano_cv.errors import UserError
from nano_cv.evaluation import bfloat16
from nano_cv.evaluation.exported import Onnx
from nano_cv.export import precision, repository
from nano_cv.export.samples import has_data
from nano_cv.export.validate import check_repository, read_config, served_versions
from nano_cv.files import list_versions
from nano_cv.metadata import Metadata, read_metadata
from nano_cv.serving import process

PROVE = process.prove  # before a fixture leaves it out


@pytest.fixture(scope="module")
def trained(exported_once, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    make_flowers(folder / "data" / "flowers")
    run_in(folder, "train", *TINY, "test=false")
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it to export in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def models(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("model_repository/*"))


def facts_of(file: Path) -> dict[str, str]:
    return {item.key: item.value for item in onnx.load(file).metadata_props}


def test_export(here, succeeds):
    for version in ("1", "2"):
        done = succeeds("export_model", *TINY)
        assert f"model_repository/lenet_flowers/{version}" in done.out
    assert models(here) == ["lenet_flowers", "lenet_flowers_from_jpeg"]
    assert not any(check_repository(here / "model_repository").values())
    folder = here / "model_repository" / "lenet_flowers"
    assert (folder / "labels.txt").read_text().split() == ["aster", "basil", "clover"]

    config = read_config(folder / "config.pbtxt")
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 4)
    assert config.dynamic_batching.max_queue_delay_microseconds == 4000
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert [group.count for group in config.instance_group] == [1]

    properties = facts_of(folder / "2/model.onnx")
    metadata = Metadata.from_json(properties["contract"])
    assert metadata.classes == ["aster", "basil", "clover"]
    for name in ("lenet_flowers", "lenet_flowers_from_jpeg"):  # where clients read it
        served = read_config(here / "model_repository" / name / "config.pbtxt")
        assert Metadata.from_json(served.parameters["contract"].string_value) == metadata
    assert float(properties["parity/probability"]) < 1e-4
    assert float(properties["parity/pictures"]) == 12
    assert properties["precision"] == "float32"
    assert properties["val/accuracy/torch"] == properties["val/accuracy/float32"]
    accuracy = float(properties["val/accuracy/torch"])
    assert Onnx(folder / "2/model.onnx").figures["val/accuracy/torch"] == accuracy  # for the card

    session = onnxruntime.InferenceSession(folder / "2/model.onnx")
    for batch in (1, 3):
        images = np.zeros((batch, 3, 32, 32), np.uint8)
        (answers,) = session.run(["CLASS_PROBS"], {"IMAGES": images})
        assert answers.shape == (batch, 3)
        assert answers.sum(axis=1) == pytest.approx(np.ones(batch), abs=1e-5)


def test_options_reach_the_config(here, succeeds):
    """Those of the second export: the first one's are replaced."""
    options = {
        **{"max_batch_size": 8, "instances": 2, "max_queue_delay_us": 500, "threads": 3},
        **{"max_queue_size": 16, "queue_timeout_us": 70000, "decode_instances": 3},
    }
    succeeds("export_model", *TINY, *(f"triton.{key}={value}" for key, value in options.items()))
    config = read_config(here / "model_repository/lenet_flowers/config.pbtxt")
    assert config.max_batch_size == 8
    assert config.instance_group[0].count == 2
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (16, 70000)
    twin = read_config(here / "model_repository/lenet_flowers_from_jpeg/config.pbtxt")
    assert twin.instance_group[0].count == 3
    assert twin.dynamic_batching.default_queue_policy == policy
    succeeds("export_model", *TINY, "triton.max_queue_delay_us=null")
    config = read_config(here / "model_repository/lenet_flowers/config.pbtxt")
    assert not config.HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("typed", "name", "pictures"),
    [
        ([], "lenet_flowers", 24),
        (["parity=photos"], "lenet_flowers", 15),
        (["parity=photos", "weights=mine.safetensors"], "lenet_plants", 15),
    ],
)
def test_export_without_the_data_set(here, succeeds, fails, typed, name, pictures):
    """Built-in pictures or any others do; also for weights of a set that is no option of data."""
    (here / "data/flowers/aster").rename(here / "photos")
    for plant in sorted(here.glob("photos/*"))[15:]:  # those of five plants stay, three files each
        plant.unlink()
    Image.new("RGB", (1, 300)).save(here / "photos/thin.png")
    shutil.rmtree(here / "data")
    weights = here / "weights/lenet_flowers.safetensors"
    mine = replace(read_metadata(weights), data="plants")
    save_file(load_file(weights), here / "mine.safetensors", {"contract": mine.to_json()})
    done = succeeds("export_model", *TINY, *typed)
    assert ("no data set here, so torch and the export are" in done.out) == (not typed)
    assert ("photos/thin.png: 1x300 pixels" in done.out) == bool(typed), "one is left out"
    facts = facts_of(here / "model_repository" / name / "1/model.onnx")
    assert float(facts["parity/pictures"]) == pictures
    assert not any(key.startswith(("val/", "speed/")) for key in facts)  # nobody has measured them
    if name == "lenet_plants":  # the pictures of `flowers` must not be taken for those of `plants`
        for more in (["precision=int8", typed[0]], ["data.name=plants"]):
            said = fails("export_model", *TINY, typed[1], *more)
            assert "trained on 'plants', which is no option of data; say where" in said


@pytest.mark.parametrize(
    ("data", "typed", "said"),
    [
        (0, "precision=int8", "metrics are measured on the labels of data=flowers, which is not"),
        (0, "data.root=data/flowrs", "flowrs/train.txt: not found; to fetch the data, type: dvc"),
        (0, "parity=photso", "parity=photso: no such file or folder"),
        (1, "tolerance=0", "nothing was published.*_rgb.jpg"),  # the pictures that differ
        (1, "precision=int8 max_drop=-1", "precision=int8: validation accuracy falls by"),
    ],
)
def test_what_is_not_allowed_publishes_nothing(here, fails, data, typed, said):
    if not data:
        shutil.rmtree(here / "data")
    assert re.search(said, fails("export_model", *TINY, *typed.split()))
    assert models(here) == []


def test_a_public_set_is_not_fetched_for_an_export(tmp_path, monkeypatch):
    """Only what an earlier run has fetched counts as here; or a place that was typed."""
    monkeypatch.chdir(tmp_path)
    config = compose("export_model", "data=flower_photos")
    Path("data/flower_photos").mkdir(parents=True)  # of a download that was broken off
    assert not has_data(config)
    Path("data/flower_photos/splits").mkdir()
    assert has_data(config)


@pytest.mark.parametrize(("flags", "bits"), [({"avx2"}, 7), ({"avx2", "avx512_vnni"}, 8)])
def test_int8_that_passes_is_published(here, succeeds, fails, monkeypatch, flags, bits):
    """Whether it is faster depends on the machine; here both ways are tried."""
    assert precision.choose_bits(flags)[0] == bits and precision.choose_bits({"avx_vnni"})[0] == 8
    monkeypatch.setattr(bfloat16, "why_not", lambda: "no bfloat16")
    monkeypatch.setattr(precision, "processor_flags", lambda: flags)
    monkeypatch.setattr(precision, "compare_speeds", lambda *_: [1.0, 0.9])
    said = fails("export_model", *TINY, "precision=int8", "max_drop=1")
    assert "0.90 times the speed of float32" in said
    assert models(here) == []

    monkeypatch.setattr(precision, "compare_speeds", lambda *_: [1.0, 1.5])
    done = succeeds("export_model", *TINY, "precision=auto", "max_drop=1")
    model = onnx.load(here / "model_repository/lenet_flowers/1/model.onnx")
    facts = facts_of(here / "model_repository/lenet_flowers/1/model.onnx")
    assert facts["precision"] == "int8" and float(facts["bits/int8"]) == bits
    assert f"int8: weights of {bits} bits, for this processor has" in done.out
    assert "precision=bf16: no bfloat16" in done.out
    weights = [one for one in model.graph.initializer if one.data_type == TensorProto.INT8]
    largest = max(np.abs(numpy_helper.to_array(one).astype(int)).max() for one in weights)
    assert largest == (127 if bits == 8 else 64)


@pytest.mark.parametrize(("name", "bits"), [("bf16", 32), ("int8_bf16", 7)])
def test_bfloat16_is_computed_by_openvino(here, succeeds, monkeypatch, name, bits):
    """Where the processor has none, OpenVINO computes in float32; the rest is as it would be."""
    pytest.importorskip("openvino")
    monkeypatch.setattr(bfloat16, "why_not", lambda: "")
    monkeypatch.setattr(precision, "processor_flags", set)
    monkeypatch.setattr(precision, "compare_speeds", lambda *_: [1.0, 1.5])
    succeeds("export_model", *TINY, f"precision={name}", "max_drop=1")
    repository = here / "model_repository"
    assert not any(check_repository(repository).values())
    config = read_config(repository / "lenet_flowers/config.pbtxt")
    assert (config.backend, config.default_model_filename) == ("openvino", "model.onnx")
    for one in models(here):  # the twin that takes JPEG computes in the same way
        config = read_config(repository / one / "config.pbtxt")
        assert config.parameters["HINT_BF16"].string_value == "YES"
    engine = Onnx(repository / "lenet_flowers/1/model.onnx")
    assert engine.precision == name and isinstance(engine.runner, bfloat16.Session)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    expected = engine.session.run(["CLASS_PROBS"], {"IMAGES": pixels})[0]
    found = engine.predict({"IMAGES": pixels})["CLASS_PROBS"]
    np.testing.assert_allclose(found, expected, atol=0.01 if bits == 32 else 0.05)
    if bits < 32 and has_triton():
        PROVE(repository, models(here))

    monkeypatch.setattr(bfloat16, "why_not", lambda: "OpenVINO is not installed")
    assert not isinstance(Onnx(engine.source["model"]).runner, bfloat16.Session)
    monkeypatch.setitem(sys.modules, "openvino", None)  # what a server reads in the config
    with pytest.raises(UserError, match="OpenVINO is not installed"):
        Onnx(engine.source["model"], entries={"HINT_BF16": "YES"})


def test_a_failed_publication_leaves_nothing(here, fails, monkeypatch):
    monkeypatch.setattr(repository, "check_model", lambda *_: ["dims: 3 is not 4"])
    assert "dims: 3 is not 4" in fails("export_model", *TINY)
    monkeypatch.setattr(bfloat16, "why_not", lambda: "no bfloat16 here")
    shutil.rmtree(here / "weights")  # before anything is loaded
    said = fails("export_model", *TINY, "precision=bf16")
    assert "precision=bf16: no bfloat16 here; nothing was" in said
    assert list((here / "model_repository").iterdir()) == []


@pytest.mark.skipif(not has_triton(), reason="there is no Triton server here")
def test_triton_is_the_judge(here, run, succeeds, monkeypatch):
    """An export is loaded into a server off to the side; what that refuses is not published."""
    monkeypatch.setattr(process, "prove", PROVE)
    done = succeeds("export_model", *TINY)
    assert "Triton has loaded lenet_flowers_from_jpeg, lenet_flowers" in done.out
    config = repository.make_model_config

    def with_wrong_warmup(*given):
        made = config(*given)
        made["model_warmup"][0]["inputs"]["IMAGES"]["dims"] = [3, 8, 8]
        return made

    monkeypatch.setattr(repository, "make_model_config", with_wrong_warmup)
    done = run("export_model", *TINY)
    assert done.status == 1, done.out
    assert "error: Triton refuses this, so nothing was published: lenet_flowers: " in done.err
    assert [path.name for path in (here / "model_repository/lenet_flowers").glob("[0-9]")] == ["1"]
    assert not list(here.glob(".model_repository*"))


def test_benchmark_without_a_model(flowers, fails):
    said = fails("benchmark", "+data=flowers", "+model=lenet", "data.root=my plants")
    assert "python export_model.py data=flowers model=lenet 'data.root=my plants'\n" in said


FIRST = replace(CONTRACT, image_size=8)
CHANGED = replace(FIRST, classes=["aster", "dill", "elder"], image_size=16)


def killed(work: Callable[[], object], step: int) -> bool:
    """Do it in a process that is killed before its `step`th change of a file; whether it was."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9), status
        return status == 9
    left = [step]

    def before(event: str, arguments: tuple) -> None:
        changes = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
        if event in changes or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)

    sys.addaudithook(before)
    status = 1
    with suppress(Exception):
        work()
        status = 0
    os._exit(status)


def served(models: Path) -> Metadata:
    """What is served, as Triton reads it: the model and its twin are each right in themselves."""
    assert not any(check_repository(models).values()), check_repository(models)
    for folder in (models / f"{FIRST.name}_from_jpeg", models / FIRST.name):
        if folder.exists():  # the twin may not be there yet
            config = read_config(folder / "config.pbtxt")
            metadata = Metadata.from_json(config.parameters["contract"].string_value)
            (version,) = served_versions(folder, config)
            assert Onnx(folder / f"{version}/model.onnx").metadata == metadata
            labels = (folder / config.output[0].label_filename).read_text()
            assert labels.splitlines() == metadata.classes
    return metadata


@pytest.mark.parametrize(("old", "new", "steps"), [(None, FIRST, 15), (FIRST, CHANGED, 20)])
def test_killed_at_any_step(tmp_path, old, new, steps):
    """A reader finds the old model or the new one; the next export succeeds and clears up."""
    before, seen = tmp_path / "before", []
    before.mkdir()
    if old:
        publish(before / "models", old)
    for step in count():
        home = tmp_path / str(step)
        shutil.copytree(before, home)
        died = killed(lambda models=home / "models": publish(models, new), step)
        if (home / "models" / FIRST.name).exists():
            seen.append(served(home / "models") == new)
            newest = max((home / "models" / FIRST.name).glob("*/model.onnx"))
            assert Onnx(newest).metadata in (old, new)  # what engine=onnx takes
        publish(home / "models", new)
        assert served(home / "models") == new
        assert (home / f"models/{FIRST.name}_from_jpeg").exists()
        assert [path.name for path in home.rglob(".*")] == []
        if not died:
            break
    assert seen == sorted(seen) and seen[-1]  # once new, it stays so
    assert step > steps


def test_two_exports_at_once(tmp_path, monkeypatch, caplog):
    inside, laid_out = threading.Event(), repository._lay_out

    def slowly(*arguments):
        if not inside.is_set():
            inside.set()
            other.start()
            other.join(0.3)
            assert other.is_alive()  # it waits
        laid_out(*arguments)

    second = replace(FIRST, classes=["dill", "elder", "fern"])
    other = threading.Thread(target=publish, args=(tmp_path / "models", second))
    monkeypatch.setattr(repository, "_lay_out", slowly)
    with caplog.at_level("INFO"):
        assert publish(tmp_path / "models", FIRST).name == "1"
    other.join()
    assert "another process is using it" in caplog.text
    assert list_versions(tmp_path / "models" / FIRST.name) == [1, 2]
    assert served(tmp_path / "models") == second
    assert [path.name for path in tmp_path.glob("*")] == ["models"]


def test_labels_stay_in_step(tmp_path, fails, flowers):
    """A class name with a line break would shift all labels behind it."""
    with pytest.raises(UserError, match=r"class names 'a\\nb': line breaks"):
        publish(tmp_path / "models", replace(FIRST, classes=["a\nb", "c", "d"]))
    assert not (tmp_path / "models").exists()
    rename_class(flowers, "basil", "ba\x1bsil")
    said = fails("train", *TINY)
    assert "\x1b" not in said
    assert "class names 'ba\\x1bsil': line breaks" in said
