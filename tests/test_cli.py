"""What a person types wrongly is answered in one message; what they add is found."""

import logging
import os
import re
import shlex
from pathlib import Path

import pytest
import torch
from conftest import LINEAR, LINEAR_YAML, TINY, compose
from hydra.core.override_parser.overrides_parser import OverridesParser

from nano_cv.config import checks, help, options
from nano_cv.errors import Formatter, UserError, listing


def composed(script: str, *arguments: str):
    """The configuration that these arguments make, after the command line's own checks."""
    lines = options.accept_plus(list(arguments))
    assert checks.check(script, lines) == []
    return compose(script, *lines)


def test_plus_makes_no_difference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = composed("train")
    assert composed("train", "data=flowers", "model=lenet") == plain
    assert composed("train", "+data=flowers", "+model=lenet") == plain
    assert composed("train", "experiment=debug") == composed("train", "+experiment=debug") != plain


@pytest.mark.parametrize("typed", ["a=1 b=2 --cfg job", "--cfg job a=1 b=2", "-m a=1 b=2"])
def test_settings_are_added_beside_those_that_are_typed(typed):
    added = options.add_settings(typed.split(), ["c=3"])
    assert " ".join(added) == typed.replace("b=2", "b=2 c=3")


LR = "model.task.optimizer.lr"
WRONG = [  # what is typed, and what the answer must hold
    ("modle=lenet", "has no 'modle'; did you mean 'model'? Allowed: coverage, data, experiment, "),
    ("model=lenett", "no such model; did you mean 'lenet'? Allowed: centernet, "),
    ("logger=[csv,mlfow]", "no such logger; did you mean 'mlflow'? Allowed: csv, mlflow, none"),
    ("~logger", "every run needs this; allowed: logger=csv, logger=mlflow, logger=none"),
    ("zebra=1", "the configuration has no 'zebra'. Allowed: coverage, data, "),
    ("trainer.max_epoch=3", "trainer has no 'max_epoch'; did you mean 'max_epochs'? Allowed: "),
    ("+seed=1", "+seed=1: this key exists already; leave out the +"),
    ("~trainer.patience", "~trainer.patience: this key is not set, so it cannot be taken away"),
    ("trainer.min_epochs=ten", "a whole number is needed, as in 'min_epochs="),
    ("model.task.network.dropout=much", "a number is needed, as in 'dropout=0.0'"),
    ("model.task.network.channels=4", "a list is needed, as in 'channels=[16, 32, 64, 128, 256]'"),
    ("lr=1e-3", "has no 'lr'; did you mean 'model.task.optimizer.lr'? Allowed: coverage, data, "),
    ("resume=1", "true or false is needed, as in 'resume=False'"),
    ("trainer.max_epochs=0", "trainer.max_epochs=0: 1 or more is needed"),
    ("model.image_size=100000", "model.image_size=100000: 8192 or less is needed"),
    ("model.task.optimizer.weight_decay=inf", "weight_decay=inf: a number is needed"),
    *((f"coverage={one}", f"coverage={one}: ") for one in ("95", "most")),
    ("trainer.precision=16mixed", "did you mean '16-mixed'? Allowed: auto, 32-true, 16-mixed"),
    ("model=lenet,vgg", "model=lenet,vgg: several values; add -m to run each of them"),
    ("flowers", "flowers: cannot be understood; what is needed is KEY=VALUE, see --help"),
    ("'seed=(1)'", "seed=(1): a whole number is needed"),  # after it was put in quotes
    ("model.task.optimizer.lr=0,001", "0,001: a number has a point: model.task.optimizer.lr=0.001"),
    ("-m model.task.optimizer.lr=0,001", "0,001: a number has a point: model.task.optimizer.lr="),
    ("data=coco data.name=x", "model=lenet does classification, and data=coco has targets for"),
    ("trainer.epochs=5", "trainer has no 'epochs'; did you mean 'max_epochs'?"),
    ("trainer.minutes=1 trainer.max_epochs=3", "=1 and trainer.max_epochs=3 both set the length"),
    ("'data.colours={bücher: [1,2,3]}'", "Names before a colon can only have plain letters"),
    ("'data.colours=[a, rot & grün]'", "quote the value: 'data.colours=[a,\"rot & grün\"]'"),
    ("--epochs=5", "--epochs=5: no such flag; settings are given as KEY=VALUE, see --help"),
    ("-m seed=1,2 --cfg job", "only one of --multirun, --cfg, --info and --run is possible"),
    ("data.root={old}", "quote the value: 'data.root=\"{old}\"'"),
    ("\"data.name=''\"", "data.name=: text is needed"),
    ("--config-dir=nowhere", "--config-dir nowhere: no such folder"),
    ("paths.runs=/proc/runs", "paths.runs=/proc/runs: /proc cannot be written to ("),
    ("data.name=x_from_jpeg", "'lenet_x_from_jpeg' cannot be the name of a model: "),
    ("data.name=../birds", "'lenet_../birds' cannot be the name of a model: 1 to 150 letters"),
    ("resume=runs/old", "resume=runs/old: no checkpoint in runs/old; start without"),
    ("seed=\x1b[2J", "seed=\\x1b[2J"),
    ("resume=true", "resume=true: no checkpoint in runs/train/lenet_flowers; start without"),
    ("-m resume=true seed=1,2", "resume=true goes on with one run; leave out -m"),
    ("-m seed=1,2 model=lenet,vgg", "model=vgg: no such model. Allowed: centernet, "),
    ("sweep=optuna hydra/launcher=joblob", "no such launcher; did you mean 'joblib'? Allowed:"),
    ("sweep=optuna hydra.sweeper.n_trials=0", "n_trials=0: more than 0 is needed"),
    ("sweep=optuna hydra.sweeper.storage=sqlite:///a.db", "in memory only; leave it out"),
    ("sweep=optuna hydra/launcher=joblib", "runs at once: 1 or more are needed, as in hydra."),
    ("sweep=optuna resume=true", "resume=true goes on with one run; leave out -m and sweep"),
    (f"sweep=optuna hydra.sweeper.params.{LR}=1", f"set by the name of its key: {LR}="),
    (f"sweep=optuna {LR}=interval(1e-2,1e-3)", "the smaller number goes first"),
    (f"sweep=optuna {LR}=tag(log,interval(0.0,0.1))", "and with 'log' it is above 0"),
    ("sweep=optuna trainer.min_epochs=interval(1,3)", "are needed; type int(interval(1, 3))"),
    (f"{LR}=interval(1e-4,1e-2)", "several values; add -m to run each of them"),
    (f"-m {LR}=interval(1e-4,1e-2)", "needs a search; add sweep=optuna, or name the values"),
    ("-m trainer.devices=2 seed=1,2", "in a sweep each run has one device"),
    ("+data=folder +data=flowers", "data=folder data=flowers: two choices of data; leave out one"),
    ("seed=0 -m data=flowers", "data=flowers: stands behind a flag; flags such as -m go before"),
]


SCRIPTS = ("train", "infer", "export_model", "serve", "benchmark", "shard")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_every_key(script):
    said = help.format_help(script, [])
    for example in help.read_examples(script):
        assert example in said and example.startswith(f"python {script}.py")
    found = help.explain_keys(options.Options(script), [])
    assert [key for key, _, comment in found if not comment] == []
    training = ("data.", "model.", "trainer.")  # of train.py, for whose help the others ask
    shown = [one for one in found if script == "train" or not one[0].startswith(training)]
    assert all(f"{key}={value}" in said for key, value, _ in shown)
    if script == "train":
        about = help.format_help("train", ["model=unet"])
        assert "model.task.dice_weight=1.0" in about and "label_smoothing" not in about


WRONG_ELSEWHERE = [
    *(("infer", f"confidence={one}", f"confidence={one}: ") for one in ("1.5", "-1", "high")),
    ("shard", "shard_mb=inf", "a number is needed"),
    ("infer", "+sweep=optuna", "infer.py takes no sweep"),
]


@pytest.mark.parametrize(
    ("script", "typed", "answer"),
    [*(("train", *one) for one in WRONG), *WRONG_ELSEWHERE],
    ids=[one[-2] for one in [*WRONG, *WRONG_ELSEWHERE]],
)
def test_one_message(run, tmp_path, script, typed, answer):
    done = run(script, *shlex.split(typed))
    assert done.status == 1 and done.out == ""
    assert done.err.startswith("error: ") and answer in done.err, done.err
    assert "Traceback" not in done.err and done.err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is written"


SHAPES = "from nano_cv.data.formats.flowers import read_flowers as read_shapes\n"
SHAPES_YAML = """
defaults: [flowers]
name: shapes
root: data/flowers
dataset: {_target_: shapes.read_shapes}
"""
COUNTER_YAML = "name: counter\nimage_size: 16\ntask: {_target_: counting.Counting}\n"
SWEEP_YAML = """
# @package _global_
defaults: [/sweep/optuna]
hydra: {sweeper: {params: {model.task.optimiser.lr: 'interval(0.1, 0.2)'}}}
"""
SERVES_YAML = "defaults: [flowers]\nname: bees\ntasks: [counting, classification]\n"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of one's own, with a blank in its name, and two Python files beside it."""
    folder = tmp_path / "my configs"
    for name, text in {
        "data/shapes": SHAPES_YAML,
        "data/bees": SERVES_YAML,
        "model/linear": LINEAR_YAML,
        "model/counter": COUNTER_YAML,
        "sweep/mine": SWEEP_YAML,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).with_suffix(".yaml").write_text(text)
    (tmp_path / "shapes.py").write_text(SHAPES)
    (tmp_path / "linear.py").write_text(LINEAR)
    return folder


def test_own_data_and_model(succeeds, flowers, mine, tmp_path, monkeypatch):
    """Adding a data set or a model is one Python file and one YAML file."""
    monkeypatch.syspath_prepend(str(tmp_path))
    options = [option for option in TINY if not option.startswith("model.")]
    arguments = [f"--config-dir={mine}", "+data=shapes", "+model=linear", *options]
    succeeds("train", *arguments)
    assert (tmp_path / "weights/linear_shapes.safetensors").exists()
    succeeds("infer", *arguments)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("data=shape", r"did you mean 'shapes'\? Allowed: bees, coco, "),
        ("model=counter", "data=flowers has targets for .*For counting: bees"),
        ("sweep=mine", r"has no 'optimiser'; did you mean 'optimizer'\?"),
    ],
)
def test_what_is_wrong_in_own_configs(fails, mine, typed, answer):
    assert re.search(answer, fails("train", f"--config-dir={mine}", typed))


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("model.image_size=16", "error: model=lenet: 5 blocks halve 16 pixels to nothing"),
        ("model.task.optimizer._target_=torch.optim.Adamm", "error: model.task.optimizer: Error"),
        ("trainer.devices=many", "error: trainer: `devices` selected with `CPUAccelerator`"),
        ("data.train_size=16", "data.train_size=16: model=lenet cannot take pictures of that size"),
        ("model=unet model.image_size=30", "image_size=30: 5 levels need a multiple of"),
        ("model=centernet data.balance=sqrt", "data.balance=sqrt: for classification and segmen"),
        ("trainer.devices=3 data.batch_size=8", "8: is for all 3 processes together, so a multi"),
        ("trainer.devices=40 data.batch_size=40", "24 training pictures are too few for 40"),
        ("model=lenet +model.pretrained=imagenet", "only networks of timm"),
        ("model=unet model.pretrained=imagenet", "model.task.network.backbone="),
        ("model=centernet data=coco", "data.root: needed by data=coco; add data.root=FOLDER"),
    ],
)
def test_settings_that_only_torch_can_refuse(fails, flowers, tmp_path, typed, answer):
    settings = ["logger=none", "trainer.accelerator=cpu", "trainer.precision=32-true"]
    said = fails("train", *settings, *typed.split())
    assert said.startswith("error: ") and answer in said
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("trainer.accelerator=gpu", "error: trainer: No supported gpu backend found"),
        ("+trainer.speed=9", "unexpected keyword argument 'speed'"),
        ("model=timm model.task.network.name=resnet19", "did you mean 'resnet18'?"),
        ("model=centernet model.task.network.channels=[4]", "too few levels"),
        ("model.pretrained=gone.safetensors", "gone.safetensors: no such file"),
        ("model.task.network.channels=[99999999]", "GB of memory, and this machine has"),
    ],
)
def test_said_before_data_is_prepared(fails, monkeypatch, typed, answer):
    monkeypatch.setattr("nano_cv.building.make_data", lambda *_: pytest.fail("data was opened"))
    if "gpu" in typed and torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert answer in fails("train", "logger=none", *typed.split())


LIMITS = [  # of the ranges: each is a training or a message, never a traceback
    *("data.augment.scale=[1e-9,1e9]", "data.train_size=1", "model.mean=[1,2]"),
    *("trainer.limit_train_batches=1e-9", "+trainer.fast_dev_run=true", "trainer.devices=0"),
    *("+trainer.check_val_every_n_epoch=5", "model=timm data.batch_size=1 model.fit=stretch"),
]
TRAINED_WITH = [  # groups of limits that can be tried in one training
    "data.batch_size=1 model.task.label_smoothing=1 model.task.ema_decay=0 data.augment=null "
    "trainer.patience=0",
    "data.batch_size=1000000000 model.task.ema_decay=1 model.task.warmup_epochs=1e9 "
    "model.task.network.channels=[1]",
    "model.task.ema_decay=null model.task.network.dropout=1 trainer.gradient_clip_val=1e-300 "
    "trainer.limit_test_batches=1e-9",
]


@pytest.mark.parametrize("typed", [*LIMITS, *TRAINED_WITH])
def test_ends_of_what_is_allowed(run, flowers, typed):
    settings = [each for each in TINY if "channels" not in each or "timm" not in typed]
    done = run("train", *settings, "test=false", *typed.split())
    assert "Traceback" not in done.err
    assert done.status == 0 or (typed in LIMITS and "error: " in done.err), done.err
    if "timm" in typed:
        assert (
            "data.batch_size=8 data.batch_size=1: data.batch_size has two values; the last"
            in done.err
        )
        assert "data.batch_size=1: model=mobilenetv4_conv_small normalises over a batch" in done.err


def test_what_cannot_be_seen_is_shown(run, flowers, tmp_path, capsys):
    bad = flowers / "aster/plant001\x1b]0;owned\x07\u202e_rgb.jpg"
    (flowers / "aster/plant001_rgb.jpg").rename(bad)
    bad.write_bytes(b"no picture")
    lines = (flowers / "train.txt").read_text().replace("plant001", bad.name[:-8], 1)
    (flowers / "train.txt").write_text(lines)
    said = run("train", *TINY).err
    assert r"\x1b]0;owned\x07\u202e" in said and not {"\x1b", "\x07", "\u202e"} & set(said)
    record = logging.makeLogRecord({"msg": "a \x9b file\r.jpg\nmore"})
    assert Formatter("%(message)s").format(record) == "a \\x9b file\\r.jpg\nmore"
    assert listing(["a\nerror: b"]) == r"a\nerror: b"


def test_newest_run_is_resumed(tmp_path):
    """Whatever it is called: the hour after summer time has the names of the hour before."""
    runs = tmp_path / "Ann's runs, old"
    for age, day in enumerate(("2026-02-01_08-00-00", "2026-02-01_08-30-00")):
        (runs / "train/lenet_flowers" / day / "checkpoints").mkdir(parents=True)
        file = runs / "train/lenet_flowers" / day / "checkpoints/last.ckpt"
        file.touch()
        os.utime(file, (1e9 - age, 1e9 - age))
    (runs / "train/lenet_flowers/2026-03-01_08-00-00").mkdir()  # broken off in its first epoch
    (added,) = checks.check("train", ["resume=true", f'paths.runs="{runs}"'])
    (override,) = OverridesParser.create().parse_overrides([added])
    assert override.value() == f"{runs}/train/lenet_flowers/2026-02-01_08-00-00"
    record = Path(override.value(), ".hydra/config.yaml")
    record.parent.mkdir()
    record.write_text("a: &a [1]\nb: [*a, *a]")
    with pytest.raises(UserError, match=r"config.yaml: damaged \(aliases are not read"):
        checks.check("train", ["resume=true", f'paths.runs="{runs}"'])
