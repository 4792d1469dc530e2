"""The command line's surface is frozen here, and every option that ships runs a step."""

from itertools import product
from pathlib import Path

import hydra
import pytest
from conftest import ROOT, make_flowers, python
from omegaconf import OmegaConf
from test_formats import every_split, make_coco, make_masks, make_voc, make_yolo, mask, write

from nano_cv.checks import CONFIGS, option_groups, task_name

GROUPS = option_groups([CONFIGS])


def compose(script: str, *overrides: str):
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose(script, list(overrides))


def test_option_groups():
    """People's commands and scripts depend on these: removing one breaks them."""
    assert GROUPS == {
        "data": ["coco", "flowers", "folder_masks", "voc", "yolo"],
        "experiment": ["debug"],
        "hydra": ["default"],
        "logger": ["csv", "mlflow", "none"],
        "model": ["centernet", "flow", "lenet", "lenet64", "unet"],
        "paths": ["default"],
        "sweep": ["optuna"],
        "trainer": ["default"],
        "triton": ["default"],
    }


SHARED = {"help", "seed", "data", "model", "paths"}
TORCH = SHARED | {"trainer", "logger"}
INFER = {
    *("input", "labels", "count", "weights", "gradcam", "engine", "server", "protocol"),
}
EXPORT = {"weights", "precision", "tolerance", "max_drop", "calibration_pictures", "triton"}
GRID = {"delays_us", "instances", "threads", "batches"}
SERVE = {
    *("models", "watch", "grpc_port", "http_port", "metrics_port", "health_port"),
    *("probe_seconds", "probe_deadline_seconds", "poll_seconds", "exit_timeout_seconds"),
    *("max_request_bytes", "receive_seconds"),
}
LOAD = {
    "concurrency",
    "seconds",
    "min_rounds",
    "max_rounds",
    "prototype",
    "p99_limit_ms",
    "write",
    "triton",
}


@pytest.mark.parametrize(
    ("script", "keys"),
    [
        ("train", TORCH | {"resume", "test"}),
        ("infer", TORCH | INFER),
        ("export_model", TORCH | EXPORT),
        ("benchmark", SHARED | GRID | LOAD),
        ("serve", {"help", "paths"} | SERVE),
    ],
)
def test_top_level_keys(script, keys):
    assert set(compose(script)) == keys


@pytest.mark.parametrize("sweep", GROUPS["sweep"])
@pytest.mark.parametrize("model", GROUPS["model"])
def test_every_model_has_what_is_searched(model, sweep):
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        chosen = [f"model={model}", f"sweep={sweep}"]
        config = hydra.compose("train", chosen, return_hydra_config=True)
    assert config.hydra.sweeper.params
    for key in config.hydra.sweeper.params:
        assert isinstance(OmegaConf.select(config, key), float), key


def serves(data: str, model: str) -> bool:
    config = compose("train", f"data={data}", f"model={model}")
    return task_name(config) in config.data.tasks


def make_voc_of_both(root: Path) -> None:
    """With masks beside the boxes."""
    make_voc(root)
    write(root / "classes.txt", "background\ncat\ndog")
    for split, names in every_split().items():
        write(root / "ImageSets/Segmentation" / f"{split}.txt", "\n".join(names))
        for name in names:
            mask(root / "SegmentationClass" / f"{name}.png", [0, 1, 2, 255])


MAKE = {
    "coco": make_coco,
    "flowers": make_flowers,
    "folder_masks": make_masks,
    "voc": make_voc_of_both,
    "yolo": make_yolo,
}


@pytest.mark.parametrize(
    ("data", "model"), [pair for pair in product(GROUPS["data"], GROUPS["model"]) if serves(*pair)]
)
def test_every_model_trains_on_every_set(run, tmp_path, data, model):
    """As shipped, at full size, a step or two."""
    MAKE[data](tmp_path / "set")
    chosen = [f"+data={data}", f"+model={model}", "data.root=set", "data.batch_size=2"]
    done = run("train", *chosen, "experiment=debug")
    assert done.status == 0, done.err


@pytest.mark.parametrize("logger", GROUPS["logger"])
def test_every_logger_trains(run, flowers, tmp_path, logger):
    done = run("train", "experiment=debug", f"logger={logger}", "model.image_size=32")
    assert done.status == 0, done.err
    assert (tmp_path / "mlflow.db").exists() == (logger == "mlflow")


@pytest.mark.parametrize("script", ["train", "infer", "serve"])
def test_help_and_errors_need_no_torch(script, tmp_path):
    """The start-up test: what makes them slow is torch, so torch must not be there."""
    for argument, status in (("--help", 0), ("--cfg=job", 0), ("modle=lenet", 1)):
        code = f"import sys; sys.argv = ['{script}.py', '{argument}']\n"
        code += "import atexit; atexit.register(lambda: print('torch' in sys.modules))\n"
        code += f"from {script} import {script}; {script}()"
        done = python("-c", code, cwd=ROOT)
        assert done.returncode == status, done.stderr
        assert done.stdout.splitlines()[-1] == "False"
