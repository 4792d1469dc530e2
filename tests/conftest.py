"""A tiny data set made on the spot, and a way to run the scripts as a person would."""

import copy
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobRuntime
from omegaconf import DictConfig
from PIL import Image
from xdist.scheduler import LoadScopeScheduling

from nano_cv.config.checks import CONFIGS
from nano_cv.metadata import Metadata

# Tests run beside each other and train tiny models: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
SPECIES = {"aster": (220, 60, 60), "basil": (60, 200, 60), "clover": (60, 60, 220)}
COUNTS = {"train": 8, "val": 4, "test": 4}  # pictures of each species

# Settings of a run that takes a second: two batches an epoch, small pictures, a small network.
TINY = [
    "model.image_size=32",
    "model.task.network.channels=[4, 8]",
    "data.batch_size=8",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "logger=none",
]

TINY_OF = {  # the same for each model
    "lenet": TINY,
    "centernet": [*TINY, "model=centernet", "model.task.max_detections=20"],
    "unet": [*TINY, "model=unet"],
    "flow": [
        *(setting for setting in TINY if "channels" not in setting),
        *("model=flow", "model.task.network.channels=[8, 16]", "model.task.network.width=16"),
        "model.task.steps=2",
    ],
}

CONTRACT = Metadata(
    task="classification",
    model="lenet",
    data="flowers",
    classes=sorted(SPECIES),
    image_size=32,
    mean=[0.485, 0.456, 0.406],
    std=[0.229, 0.224, 0.225],
    network={"channels": [4, 8], "dropout": 0.0},
)

# A network without batch norm, whose losses do not depend on how many processes there are.
LINEAR = """
from torch import nn


class Linear(nn.Sequential):
    def __init__(self, num_classes, image_size):
        super().__init__(nn.Flatten(), nn.Linear(3 * image_size * image_size, num_classes))
"""
LINEAR_YAML = """
name: linear
image_size: 16
mean: [0.5, 0.5, 0.5]
std: [0.25, 0.25, 0.25]
task:
  _target_: nano_cv.tasks.classification.Classification
  network: {_target_: linear.Linear, _partial_: true}
  optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: 1e-3}
"""

# What several processes leave to one of them, so that what these tests share is made once.
TOGETHER = {
    # Servers in turn: a free port may be somebody else's a moment later. And what `shop` sells.
    "servers": (
        *("tests/test_engines.py", "tests/test_generation.py", "tests/test_serving.py"),
        *("tests/test_served_answers.py", "tests/test_door.py", "tests/test_page.py"),
        "tests/test_readme.py::test_from_export_to_answers",
        "tests/test_readme.py::test_the_three_calls",
    ),
    "clone": ("tests/test_readme.py::test_dvc_pull", "tests/test_readme.py::test_pretrained"),
    **{
        name: f"tests/test_{name}.py"
        for name in ("detection", "export", "segmentation", "tracking")
    },
}


class Result(NamedTuple):
    """What a script left behind."""

    status: int
    out: str
    err: str


def make_flowers(root: Path, kinds: Mapping[str, tuple[int, int, int]] = SPECIES) -> Path:
    """A set in the layout of `flowers`: noisy pictures, a colour a species.

    Each has two leaves, at places that depend on its number; nothing in the pixels shows them.
    """
    random = np.random.default_rng(0)
    lists: dict[str, list[str]] = {split: [] for split in COUNTS}
    for species, colour in kinds.items():
        (root / species).mkdir(parents=True)
        number = 0
        for split, count in COUNTS.items():
            for _ in range(count):
                number += 1
                noise = random.integers(-55, 56, (40, 48, 3))
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                plant = root / species / f"plant{number:03d}"
                Image.fromarray(pixels).save(f"{plant}_rgb.jpg")
                save_leaves(plant, number)
                lists[split].append(f"{species}/plant{number:03d}")
    for split, names in lists.items():
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def save_leaves(plant: Path, number: int) -> None:
    """`_label.png` with two leaves as rectangles, and `_mask.png` with a blossom beside them."""
    label = np.zeros((40, 48), np.uint8)
    label[4:14, 4 + number : 20 + number] = 1
    label[20:36, 10:22] = 2
    mask = (label > 0).astype(np.uint8)
    mask[26:34, 30:40] = 2
    Image.fromarray(label).save(f"{plant}_label.png")
    Image.fromarray(mask).save(f"{plant}_mask.png")


class Together(LoadScopeScheduling):
    """With `pytest -n`: each test for itself, but for those that go `TOGETHER`.

    Not `--dist loadgroup`: pytest-xdist 3.8 does not see its groups in pytest 9.2 (its issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((group for group in TOGETHER if nodeid.startswith(TOGETHER[group])), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """Asked for by pytest-xdist."""
    return Together(config, log)


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """The folder of a tiny data set, which the test may damage."""
    return make_flowers(tmp_path / "data" / "flowers")


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Result]]:
    """`run("train", "trainer.max_epochs=2")`: a script in this process, in an empty folder.

    In this process because loading torch takes longer than all of a tiny training.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))

    def call(script: str, *arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        status = 0
        try:
            getattr(__import__(script), script)()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        return Result(status, *capsys.readouterr())

    yield call
    # Processes that a sweep leaves waiting for the next one are in this test's folder.
    if loky := sys.modules.get("joblib.externals.loky"):
        loky.get_reusable_executor().shutdown()


@pytest.fixture(scope="session", autouse=True)
def proved_once() -> Iterator[None]:
    """Loading an export into Triton takes some seconds: left to the tests that are about it."""
    from nano_cv.serving import triton

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "prove", lambda repository, models: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """The same command line is composed once, for composing takes Hydra half of a tiny training.

    Configurations of a test's own (`--config-dir`) are composed every time.
    """
    compose, kept = ConfigLoaderImpl._load_configuration_impl, dict[str, DictConfig]()

    def once(loader: ConfigLoaderImpl, **given: Any) -> DictConfig:
        places = {str(each.path) for each in loader.config_search_path.get_path()}
        ours = {"pkg://hydra.conf", f"file://{CONFIGS}", str(CONFIGS), "structured://"}
        if places - ours or "searchpath=[file" in str(given):
            return compose(loader, **given)
        plugins = [ConfigStore.instance().list(f"hydra/{one}") for one in ("launcher", "sweeper")]
        key = str((given, plugins, JobRuntime.instance().conf))
        if key not in kept:
            kept[key] = compose(loader, **given)
        config = copy.deepcopy(kept[key])
        config.hydra.runtime.cwd = os.getcwd()
        return config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "_load_configuration_impl", once)
        yield


@pytest.fixture(scope="session")
def exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """From now on the same weights are exported once: torch takes five seconds for it."""
    from nano_cv.export import graph

    folder, export = tmp_path_factory.mktemp("graphs"), graph.export

    def once(task: Any, file: Path) -> None:
        task.eval()  # as `export` leaves it
        key = hashlib.sha256(str([word for word in sys.argv if word.startswith("model.")]).encode())
        known = task.metadata
        fitted = (known.task, known.temperature, known.set_from, known.thresholds)
        key.update(str(fitted).encode())
        for name, tensor in task.state_dict().items():
            key.update(name.encode() + tensor.numpy().tobytes())
        kept = folder / f"{key.hexdigest()}.onnx"
        if not kept.exists():
            export(task, kept)
        shutil.copyfile(kept, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "export", once)
        yield


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny data set in which each model has been trained and exported."""
    folder = tmp_path_factory.mktemp("shop")
    make_flowers(folder / "data" / "flowers")
    for settings in TINY_OF.values():
        for script in ("train", "export_model"):
            run_in(folder, script, *settings)
    return folder


def run_in(folder: Path, script: str, *arguments: str) -> None:
    """As `run`, but for fixtures that live longer than a test; it must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(ROOT))
        patch.setattr(sys, "argv", [f"{script}.py", *arguments])
        getattr(__import__(script), script)()


def python(*arguments: str, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """A new Python process with the project on its path."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, **options
    )  # type: ignore[call-overload, no-any-return]
