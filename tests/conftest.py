"""A tiny data set made on the spot, and a way to run the scripts as a person would."""

import copy
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobRuntime
from omegaconf import DictConfig
from PIL import Image
from xdist.scheduler import LoadScopeScheduling

from nano_cv.config.options import CONFIGS, option_groups
from nano_cv.data.pictures import open_pictures, resize_splits
from nano_cv.errors import UserError
from nano_cv.evaluation import drawing, evaluate
from nano_cv.metadata import Metadata

# Tests run beside each other and train tiny models: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("MLFLOW_TRACKING_URI", None)  # no record of a test on a person's own server
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

# What `shop` sells: a square generator, and models of pictures that are wider than high.
SHOP = {
    model: settings if model == "flow" else [*settings, "model.image_size=[32,64]"]
    for model, settings in TINY_OF.items()
}
SHOP["lenet"].append("trainer.max_epochs=4")  # it answers with more than one class
SHOP["centernet"].append("model.task.network.width=16")  # with it, the random start finds boxes

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

# Runs a program in two processes at once.
TWICE = """
import subprocess, sys
both = [subprocess.Popen([sys.executable, "-c", *sys.argv[1:]]) for _ in range(2)]
sys.exit(max(one.wait() for one in both))
"""

# What several processes leave to one of them, so that what these tests share is made once.
TOGETHER = {
    # What `shop` sells, and the tiny Triton: few servers at once, as each takes a tenth of a core.
    "shop": (
        *("tests/test_engines.py", "tests/test_generation.py"),
        "tests/test_readme.py::test_from_export_to_answers",
    ),
    "tiny": (
        *("tests/test_serving.py", "tests/test_door.py", "tests/test_page.py"),
        "tests/test_readme.py::test_calls_from_an_app",
    ),
    "clone": tuple(
        f"tests/test_readme.py::test_{name}" for name in ("dvc_pull", "pretrained", "shipped")
    ),
    "readme": ("tests/test_readme.py::test_train", "tests/test_readme.py::test_infer"),
    **{name: f"tests/test_{name}.py" for name in ("export", "processes", "scenes", "tracking")},
}


class Result(NamedTuple):
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


def picture(
    file: Path, colour: tuple[int, ...] = (9, 9, 9), width: int = 24, height: int = 20
) -> Path:
    """A flat one, not quite the same as any other."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((height, width, 3), colour, np.uint8)
    digest = hashlib.sha256(str(file).encode()).digest()
    pixels[0, :4] = np.frombuffer(digest[:12], np.uint8).reshape(4, 3)
    Image.fromarray(pixels).save(file)
    return file


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
def every_message(caplog: pytest.LogCaptureFixture) -> None:
    """In `caplog` are messages of the level INFO, too."""
    caplog.set_level("INFO")


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """The folder of a tiny data set, which the test may damage."""
    return make_flowers(tmp_path / "data" / "flowers")


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Result]]:
    """`run("train", "trainer.max_epochs=2")`: a script in this process, in an empty folder.

    In this process because loading torch takes longer than all of a tiny training. A module with
    a `main` is run by its whole name.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))

    def call(script: str, *arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        status = 0
        try:
            getattr(import_module(script), "main" if "." in script else script)()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)  # as Python does
        return Result(status, *capsys.readouterr())

    yield call
    # Processes that a sweep leaves waiting for the next one are in this test's folder.
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    if loky and loky._executor:
        loky._executor.shutdown(kill_workers=True)


@pytest.fixture
def untrained(run: Callable[..., Result]) -> Path:
    """A file of weights where a training leaves it, of a LeNet that has learnt nothing."""
    from nano_cv import building
    from nano_cv.tasks import weights

    file = Path("weights/lenet_flowers.safetensors")
    weights.save(building.make_task(compose("train", *TINY), CONTRACT), file)
    return file


@pytest.fixture
def succeeds(run: Callable[..., Result]) -> Callable[..., Result]:
    """Runs a script that must not fail."""

    def call(script: str, *arguments: str) -> Result:
        done = run(script, *arguments)
        assert done.status == 0, done.err
        return done

    return call


@pytest.fixture
def fails(run: Callable[..., Result]) -> Callable[..., str]:
    """Runs a script that must fail in the proper way: one message, which it returns."""

    def call(script: str, *arguments: str) -> str:
        done = run(script, *arguments)
        assert done.status == 1, done.out
        assert done.err.count("error: ") == 1 and "Traceback" not in done.err, done.err
        assert not list(Path().rglob("*.tmp")), "half-written"
        return done.err

    return call


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`with interrupted(1): run("train")`: Ctrl-C at the first step of an epoch, counted from 0.

    Or at another step, and then with checkpoints after every step.

    Yields a list, of the number of epochs that were planned.
    """
    from nano_cv.training.learner import Learner

    step = Learner.training_step

    @contextmanager
    def interrupted_in(epoch: int, at: int = 0) -> Iterator[list[int]]:
        planned: list[int] = []

        def pressed(learner: Any, batch: Any, index: int) -> Any:
            if (learner.current_epoch, index) == (epoch, at):
                planned.append(learner.trainer.max_epochs)
                signal.raise_signal(signal.SIGINT)
            return step(learner, batch, index)

        # In a job of the background Ctrl-C has no effect, and none after Lightning has caught one.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        with monkeypatch.context() as patch:
            patch.setattr(Learner, "training_step", pressed)
            if at:
                patch.setattr("nano_cv.training.callbacks.CHECKPOINT_SECONDS", 0)
                patch.setattr("nano_cv.training.callbacks.TIMES_WRITING", 0)
            yield planned
        signal.signal(signal.SIGINT, handler)

    return interrupted_in


@pytest.fixture(scope="session")
def for_all() -> Iterator[pytest.MonkeyPatch]:
    """Patches that stay until the end."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="session", autouse=True)
def quick(for_all: pytest.MonkeyPatch) -> None:
    """Neither drawings nor exports that are loaded into Triton, which have tests of their own.

    The speed of each precision is measured for a shorter time, too; no test looks at it.
    """
    from nano_cv.export import precision
    from nano_cv.serving import process

    for_all.setattr(process, "prove", lambda repository, models: None)
    for_all.setattr(precision, "SECONDS", 0.01)
    draw(for_all, lambda *_: None)


def open_splits(
    dataset: Callable[..., Any], root: Path | str, task: str, size: Any, cache: Any, fit: str
) -> Any:
    """All splits of a set, resized, and its hash."""
    return resize_splits(open_pictures(dataset, root, task), size, cache, fit)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawings are made and kept, as usual."""
    draw(monkeypatch)


def draw(patch: pytest.MonkeyPatch, write: Callable[..., None] = drawing.write_drawing) -> None:
    for module in (drawing, evaluate):
        patch.setattr(module, "write_drawing", write)


@pytest.fixture(scope="session", autouse=True)
def composed_once(for_all: pytest.MonkeyPatch) -> None:
    """The same choices are composed once, for composing takes Hydra half of a tiny training.

    Settings are then made as Hydra makes them. Configurations of a test's own (`--config-dir`) are
    composed every time.
    """
    compose, kept = ConfigLoaderImpl._load_configuration_impl, dict[str, DictConfig]()
    choice = re.compile(rf"[+~]*({'|'.join(option_groups([CONFIGS]))}|hydra/[\w/]+)(@.*)?(=|$)")

    def once(loader: ConfigLoaderImpl, **given: Any) -> DictConfig:
        places = {str(each.path) for each in loader.config_search_path.get_path()}
        ours = {"pkg://hydra.conf", f"file://{CONFIGS}", str(CONFIGS), "structured://"}
        lines = given["overrides"]
        if places - ours or "searchpath=[file" in str(lines):
            return compose(loader, **given)
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(lines)
        if given.get("validate_sweep_overrides", True):
            modes = (given["run_mode"], given.get("from_shell", True))
            loader.validate_sweep_overrides_legal(overrides, *modes)
        choices = given | {"overrides": [line for line in lines if choice.match(line)]}
        plugins = [ConfigStore.instance().list(f"hydra/{one}") for one in ("launcher", "sweeper")]
        key = str((choices, plugins, JobRuntime.instance().conf))
        if key not in kept:
            kept[key] = compose(loader, **choices)
        config = copy.deepcopy(kept[key])
        single = [one for one in overrides if not one.is_sweep_override()]
        settings = [one for one in single if not choice.match(one.input_line)]
        ConfigLoaderImpl._apply_overrides_to_config(settings, config)
        own = [one for one in overrides if not one.is_hydra_override()]
        config.hydra.overrides.task = [one.input_line for one in own]
        hydras = [one.input_line for one in overrides if one.is_hydra_override()]
        config.hydra.overrides.hydra = hydras
        naming = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(overrides=own, **naming)
        config.hydra.runtime.cwd = os.getcwd()
        return config

    for_all.setattr(ConfigLoaderImpl, "_load_configuration_impl", once)


@pytest.fixture(scope="session")
def exported_once(tmp_path_factory: pytest.TempPathFactory, for_all: pytest.MonkeyPatch) -> None:
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

    for_all.setattr(graph, "export", once)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny data set in which each model has been trained and exported."""
    folder = tmp_path_factory.mktemp("shop")
    make_flowers(folder / "data" / "flowers")
    for settings in SHOP.values():
        run_in(folder, "train", *settings)
        run_in(folder, "export_model", *settings, "triton.max_picture_bytes=100000")
    return folder


@pytest.fixture
def in_shop(shop: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shop)
    return shop


LIMITS = (
    *("max_request_bytes=300000", "max_picture_pixels=400000", "receive_seconds=2"),
    *("max_connections=1200", "answer_seconds=55", "probe_seconds=2", "poll_seconds=1"),
)


@contextmanager
def serving_tiny(folder: Path, without: bool) -> Iterator[Any]:
    """A server of a tiny model for each task, and of `lenet_flowers`; also without any Triton."""
    from tiny_models import publish_all, publish_one

    from benchmarks.serving.trial import Trial

    publish_all(folder / "models")
    publish_one(folder / "models", "classification", "lenet", "flowers", size=224)
    with Trial(folder / "models", folder, *LIMITS, without=without) as trial:
        trial.wait_ready()
        yield trial


def has_triton() -> bool:
    from nano_cv.serving import triton

    with suppress(UserError):
        return bool(triton.find_wheel())
    return False


def skip_without_triton(**options: bool) -> None:
    if not has_triton():
        pytest.skip("there is no Triton server here", **options)


@pytest.fixture(scope="session")
def tiny_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Such a server by the real Triton."""
    skip_without_triton()
    with serving_tiny(tmp_path_factory.mktemp("tiny"), without=False) as trial:
        yield trial


@pytest.fixture(scope="module")
def tiny_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """And one where there is no Triton."""
    with serving_tiny(tmp_path_factory.mktemp("alone"), without=True) as trial:
        yield trial


def run_in(folder: Path, script: str, *arguments: str) -> None:
    """As `run`, but for fixtures that live longer than a test; with drawings, and no failure."""
    with pytest.MonkeyPatch.context() as patch:
        draw(patch)
        patch.chdir(folder)
        patch.syspath_prepend(str(ROOT))
        patch.setattr(sys, "argv", [f"{script}.py", *arguments])
        getattr(__import__(script), script)()


def compose(script: str, *settings: str, **options: bool) -> DictConfig:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose(script, list(settings), **options)


def rename_class(root: Path, old: str, new: str) -> None:
    """In a set of `make_flowers`: its folder, and its name in the lists."""
    (root / old).rename(root / new)
    for split in COUNTS:
        file = root / f"{split}.txt"
        file.write_text(file.read_text().replace(f"{old}/", f"{new}/"))


def read_csv(file: Path) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns."""
    with file.open() as lines:
        return list(csv.DictReader(lines))


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """The content of a file of that picture."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def turned(orientation: int = 6) -> Image.Exif:
    """What a camera writes that was held on its side, or as the number says."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def update_json(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def refused(call: Callable[[], object]) -> str:
    """What the `UserError` says that a call ends with."""
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def python(*arguments: str, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """A new Python process with the project on its path."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, **options
    )  # type: ignore[call-overload, no-any-return]
