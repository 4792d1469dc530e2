"""What the README, the documentation and `make help` tell a person to type works."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache, partial
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SPECIES, TINY, TINY_OF, compose, make_flowers, python
from PIL import Image
from test_classes import make_csv, make_folder
from test_fetching import make_cvppp
from test_formats import (
    add_voc_masks,
    every_split,
    make_masks,
    make_voc,
    make_yolo,
    mask,
    outlined_coco,
    picture,
    write,
)
from tiny_models import publish_one

from benchmarks.serving import comparison
from benchmarks.serving.trial import Trial
from nano_cv.config import help
from nano_cv.config.options import CONFIGS, option_groups
from nano_cv.evaluation.trained import trained_task
from nano_cv.export.validate import check_repository, read_config
from nano_cv.metadata import read_metadata
from nano_cv.serving.triton import LOOPBACK
from tools import write_configure

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = list(dict.fromkeys(line for line in LINES if line))  # each once
# Those that install, wait for a person or leave this machine; what they stand for is tested
# by `.ci/run`, which sets everything up from the lock, and by the tests below.
ELSEWHERE = (
    *("git clone", "cd ", "pipx ", "poetry ", "mlflow ui", "dvc remote", "dvc push"),
    *("docker ", "kubectl ", "torchrun ", "srun ", "ray "),
    *("python3.11 -m venv", ".venv/bin/pip ", "grep ", "source "),
    *("python benchmarks/", "python -m tools.draw_docs"),
)
ONE_BY_ONE = (
    *("python train.py", "python infer.py", "python shard.py"),
    *("make", "dvc pull", "python -m tools.render_flowers"),
)
SERVING = (
    *("python export_model.py", "python serve.py", "python benchmark.py"),
    *("python -m nano_cv.serving.client", "python -m nano_cv.export.validate", "curl "),
)


# Names of the real species, for the commands that ask for them.
NAMES = dict(zip(("daisy", "primrose", "tobacco"), SPECIES.values(), strict=True))
TRAINED: dict[str, Path] = {}  # folders of weights, by the meaning of the command


def make_pets(root: Path) -> None:
    """As unpacked: two breeds."""
    write(root / "pictures/classes.txt", "background\npet")
    for split in every_split():
        names = [f"{breed}/{split}" for breed in ("Bengal", "Boxer")]
        write(root / f"pictures/{split}.txt", "\n".join(names))
        for name in names:
            picture(root / "pictures/images" / f"{name}.jpg")
            mask(root / "pictures/masks" / f"{name}.png", [0, 1, 255])


def make_voc2012(root: Path) -> None:
    make_voc(root / "pictures/VOCdevkit/VOC2012")
    add_voc_masks(root / "pictures/VOCdevkit/VOC2012", [0, 8, 12, 255])


SETS = {
    **{"coco": outlined_coco, "voc": make_voc, "yolo": make_yolo, "csv": make_csv},
    **{"cvppp": make_cvppp, "folder": make_folder, "folder_masks": make_masks, "pets": make_pets},
    "fashion_mnist": lambda root: make_folder(root / "pictures"),  # as unpacked
    "flower_photos": lambda root: make_folder(root / "splits"),
    "flowers102": lambda root: make_folder(root / "pictures"),
    "voc2012": make_voc2012,
}


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    return make_flowers(tmp_path / "data" / "flowers", NAMES)


def matching(*starts: str) -> list[str]:
    return [command for command in COMMANDS if command.startswith(starts)]


def test_every_command_is_covered():
    assert set(COMMANDS) == set(matching(*ELSEWHERE, *ONE_BY_ONE, *SERVING))


def meaning(command: str) -> str:
    """What a command asks for: neither `+` nor a choice that is the default makes a difference."""
    words = [word.lstrip("+") for word in shlex.split(command)[2:]]
    return " ".join(word for word in words if word not in ("data=flowers", "model=lenet"))


def meanings(commands: list[str]) -> list[str]:
    """One command of each meaning; `tests/test_cli.py` holds that the others are the same."""
    return list({meaning(command): command for command in commands}.values())


# `tests/test_processes.py` trains with several devices, and `tests/test_sweep.py` in several
# processes of joblib's; it also asks for SLURM.
TOLD = [one for one in matching("python train.py") if not re.search("devices|n_jobs|slurm", one)]
MODELS = {"cvppp": "centernet", "pets": "unet", "voc2012": "unet"}
UNTOLD = [  # the other sets that ship
    f"python train.py +data={data} +model={MODELS.get(data, 'lenet')} data.root=set"
    for data in option_groups([CONFIGS])["data"]
    if f"data={data} " not in " ".join(TOLD)
]


@pytest.mark.parametrize("command", [*meanings(TOLD), *UNTOLD])
def test_train(run, flowers, tmp_path, command):
    done = train(run, tmp_path, command)
    if "resume=true" in command:
        assert "no checkpoint" in done.err
    else:
        assert done.status == 0, done.err
        TRAINED[meaning(command)] = tmp_path / "weights"


@pytest.mark.parametrize("command", matching("python shard.py"))
def test_shard(succeeds, flowers, tmp_path, command):
    succeeds("shard", *shlex.split(command)[2:], *small(command)[:1])
    assert list((tmp_path / settings(command)["output"]).glob("train-*.tar"))


@pytest.mark.parametrize(
    "command", meanings([one for one in matching("python infer.py") if "engine" not in one])
)
def test_infer(run, succeeds, flowers, tmp_path, command):
    needed = without_own_keys(command)
    if meaning(needed) in TRAINED:
        shutil.copytree(TRAINED[meaning(needed)], tmp_path / "weights")
    else:
        assert train(run, tmp_path, needed).status == 0
        TRAINED[meaning(needed)] = tmp_path / "weights"
    for name in re.findall(r"input='?([^\s']+)", command):
        picture = tmp_path / name.replace("*", "1")
        picture = picture if picture.suffix else picture / "one.jpg"
        picture.parent.mkdir(exist_ok=True)
        shutil.copy(flowers / "daisy/plant001_rgb.jpg", picture)
    succeeds("infer", *shlex.split(command)[2:], *small(command))


def train(run, folder: Path, command: str):
    """Run a command of train.py, tiny, on a tiny set where the command says that there is one."""
    said = settings(command)
    if said.get("data") == "shards":
        write = f"python shard.py output={said['data.root']}"
        assert run("shard", *shlex.split(write)[2:], *small(write)[:1]).status == 0
    if (name := said.get("data")) in SETS:
        SETS[name](folder / said.get("data.root", f"data/{name}"))
    return run("train", *shlex.split(command)[2:], *small(command))


def settings(command: str) -> dict[str, str]:
    """What a command sets, by key; a weights file also names the model and the data."""
    pairs = [word.partition("=") for word in shlex.split(command)]
    said = {key.lstrip("+"): value for key, sign, value in pairs if sign}
    if found := re.fullmatch(r"weights/(\w+)_(\w+)\.safetensors", said.get("weights", "")):
        said |= {"model": found[1], "data.name": found[2]}
    return said


def without_own_keys(command: str) -> str:
    """The training that a command needs: with the same model and data."""
    said = settings(command)
    kept = {key: said[key] for key in ("data", "model", "data.root", "data.name") if key in said}
    return " ".join(["python train.py", *(f"{key}={value}" for key, value in kept.items())])


def small(command: str) -> list[str]:
    """The settings of a tiny run of its model, but for what the command sets itself."""
    own = settings(command)
    tiny = TINY_OF.get(own.get("model", "lenet"), [one for one in TINY if "channels" not in one])
    if "efficientnet" in own.get("model", ""):  # `tests/test_surface.py` has them as shipped
        tiny = [*tiny, "model.task.network.name=test_efficientnet", "model.pretrained=null"]
        tiny.append("model.task.network.frozen=0")
    if "backbone" in command:
        tiny = [one.replace("image_size=32", "image_size=64") for one in tiny]
    if "sweep" in own:
        tiny = [*tiny, "hydra.sweeper.n_trials=1"]
    if "joblib" in command:
        tiny = [*tiny, "hydra.launcher.n_jobs=1"]  # in this process
    return [setting for setting in tiny if setting.partition("=")[0] not in own]


@pytest.mark.skipif(sys.platform != "linux", reason="Triton's wheel is for Linux")
def test_from_export_to_answers(run, succeeds, exported_once, flowers, tmp_path, monkeypatch):
    """The commands of the chapter on serving, in the order of a person who follows it."""
    exported = meanings(matching("python export_model.py"))
    for command in meanings([without_own_keys(command) for command in exported]):
        assert train(run, tmp_path, command).status == 0
    (tmp_path / "photos").mkdir()
    for place in ("photo.jpg", "photos/one.jpg"):
        shutil.copy(flowers / "daisy/plant001_rgb.jpg", tmp_path / place)
    # What is benchmarked is in float32: of int8, twice as many models would be measured.
    plain = [command for command in exported if "precision" not in command]
    monkeypatch.setattr("benchmarks.serving.processes.WORKERS", 1)
    monkeypatch.setattr(comparison, "measure", partial(comparison.measure, warmup=0.02))
    for command in [*plain, *matching("python benchmark.py"), *sorted({*exported} - {*plain})]:
        if "benchmark" in command:
            check_benchmark(succeeds, tmp_path, command)
            continue
        done = run("export_model", *shlex.split(command)[2:], *small(command), "max_drop=1")
        # A tiny int8 model may be slower here, and then is not published: that is said.
        assert done.status == 0 or "times the speed of float32" in done.err, done.err

    models = tmp_path / "model_repository"
    for number, command in enumerate(matching("python serve.py")):
        folder = tmp_path / f"serve_{number}"
        folder.mkdir()
        with Trial(models, folder, *shlex.split(command)[2:]) as trial:
            trial.wait_ready()
            server = f"{LOOPBACK}:{trial.ports['grpc_port']}"
            for asked in [] if number else matching("python infer.py engine"):
                address = [f"server={server}"] if "triton" in asked else []
                succeeds("infer", *shlex.split(asked)[2:], *small(asked), *address)
            for asked in [] if number else matching("python -m nano_cv.serving.client"):
                arguments = [*shlex.split(asked)[1:], "--address", server]
                if "--model" not in asked and len(list(models.glob("*_from_jpeg"))) > 1:
                    arguments += ["--model", "lenet_flowers"]  # alone when one follows the README
                answer = python(*arguments, cwd=tmp_path)
                assert answer.returncode == 0, answer.stderr
                assert "photo.jpg" in answer.stdout
    for command in matching("python -m nano_cv.export.validate"):
        checked = python(*shlex.split(command)[1:], cwd=tmp_path)
        assert checked.returncode == 0, checked.stdout


def check_benchmark(succeeds, folder: Path, command: str) -> None:
    """Rows and files; with `write` the rows of other designs too, and the best in config.pbtxt."""
    # Any machine reaches this limit.
    quick = ["seconds=0.1", "concurrency=2", "min_rounds=1", "max_rounds=1", "p99_limit_ms=1e5"]
    quick += [setting for setting in small(command) if setting.startswith("model")]
    rows = ["in process", "best, from JPEG", "by REST"]
    if "write" in command:
        quick += ["delays_us=[null, 700]", "instances=[2]"]
        rows += ["prototype, binary pixels", "FastAPI, binary", "FastAPI, from JPEG"]
        rows += ["| float32 | 2 | none |", "| float32 | 2 | 700 |"]
    else:
        quick += ["delays_us=[0]", "instances=[1]", "prototype=false"]
    done = succeeds("benchmark", *shlex.split(command)[2:], *quick)
    assert not [row for row in rows if row not in done.out]
    newest = max(folder.glob("runs/benchmark/lenet_flowers/*"))
    for name in ("benchmark.md", "benchmark.csv", "benchmark.png"):
        assert (newest / name).stat().st_size > 100
    if "write" in command:
        models = folder / "model_repository"
        config = read_config(models / "lenet_flowers/config.pbtxt")
        assert config.instance_group[0].count == 2
        assert config.dynamic_batching.max_queue_delay_microseconds in (0, 700)
        assert not any(check_repository(models).values())


def test_calls_from_an_app(tiny_triton, tmp_path):
    """By curl, requests, tritonclient and onnxruntime: as they stand there, but for the ports."""
    for name, colour in (("photo.jpg", "blue"), ("another.jpg", "red")):
        Image.new("RGB", (300, 200), colour).save(tmp_path / name)
    (curl,) = matching("curl ")
    scripts = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    calls = [script for script in scripts if "127.0.0.1" in script or "onnxruntime" in script]
    assert len(calls) == 3
    models = tmp_path / "model_repository"
    publish_one(models, "classification", "lenet", "flowers", size=224)

    def here(text: str) -> str:
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{tiny_triton.ports['port']}")
        return text.replace("127.0.0.1:8001", f"127.0.0.1:{tiny_triton.ports['grpc_port']}")

    line = [*shlex.split(here(curl)), "--silent"]
    done = subprocess.run(line, cwd=tmp_path, check=True, capture_output=True)
    assert json.loads(done.stdout)["label"] == "blue"
    answers = ("photo.jpg blue\nanother.jpg red\n", "[[", "blue\n")
    for call, said in zip(calls, answers, strict=True):
        answer = python("-c", here(call), cwd=tmp_path)
        assert answer.stdout.startswith(said), answer.stderr


@pytest.mark.parametrize("command", matching("make"))
def test_make(command):
    subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_make_help_names_every_target():
    shown = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True)
    targets = "setup run test test-intel-mac lint format benchmark docs clean"
    for target in targets.split():
        assert f"make {target}" in shown.stdout


def test_installation_without_cuda_is_that_of_the_lock():
    """Its versions are locked, and what it leaves out is torch, CUDA, and torch's compiler."""
    text = (ROOT / "docs/machines.md").read_text()
    packages = tomllib.loads((ROOT / "poetry.lock").read_text())["package"]
    locked = [f"{one['name']}=={one['version']}" for one in packages]
    (pip,) = (line for line in text.splitlines() if "--index-url" in line)
    assert {word for word in pip.split() if "==" in word} <= set(locked)
    (pattern,) = re.findall("grep -vE '(.*)' requirements", text)
    left = {one.partition("==")[0] for one in locked if not re.match(pattern, one)}
    some = {name for name in left if re.match("torch|triton|cuda|nvidia", name)}
    assert some == {"torchmetrics", "tritonclient", "nvidia-pytriton"}


def test_links_and_pictures_exist_and_the_readme_is_one_screen_and_a_half():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_is_in_the_navigation():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = {file for entry in navigation for file in entry.values()}
    assert named == {page.name for page in ROOT.glob("docs/*.md")}


def test_page_of_keys_is_up_to_date(monkeypatch):
    """If not, type: python -m tools.write_configure."""
    monkeypatch.setattr(help, "read_comments", cache(help.read_comments))  # of 40 pages the same
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it where it records
    assert write_configure.FILE.read_text() == write_configure.make_page()


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A fresh clone of what is committed, after `dvc pull`."""
    folder = tmp_path_factory.mktemp("clone") / "nano-cv"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", ROOT.as_uri(), folder], check=True)
    pull = [sys.executable, "-m", "dvc", "pull", "--quiet"]
    subprocess.run(pull, cwd=folder, check=True, timeout=240)
    return folder


def test_dvc_pull_in_a_fresh_clone(clone):
    lists = [clone / f"data/flowers/{split}.txt" for split in ("train", "val", "test")]
    names = [name for file in lists for name in file.read_text().split()]
    assert len(names) == len(set(names)) == 840
    for part in ("rgb.jpg", "label.png", "centers.png", "mask.png"):
        assert all((clone / f"data/flowers/{name}_{part}").exists() for name in names)
    assert sum(file.stat().st_size for file in (clone / "data").rglob("*")) < 40e6


def test_pretrained_weights_are_as_good_as_their_card_says(clone, succeeds, monkeypatch):
    monkeypatch.chdir(clone)
    card = (clone / "weights/lenet_flowers.md").read_text()
    measured = re.search(r"test/accuracy\s+([\d.]+)", succeeds("infer", "logger=none").out)
    said = re.search(r"test accuracy of these weights \| ([\d.]+)", card)
    assert float(measured[1]) == pytest.approx(float(said[1]), abs=0.01)


def test_shipped_weights_fit_their_models(clone):
    for file in clone.glob("weights/*.safetensors"):
        metadata = read_metadata(file)
        config = compose("infer", f"data={metadata.data}", f"model={metadata.model}")
        assert trained_task(config, file).metadata.name == file.stem
