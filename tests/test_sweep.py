"""Searching for the best settings: what is tried, stopped early, and said at the end."""

import math
import re
import shlex
from pathlib import Path

import hydra
import numpy as np
import optuna
import pytest
from conftest import TINY, TINY_OF, compose
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from nano_cv.config import checks
from nano_cv.training import sweep
from nano_cv.training.sweep import Scores, falls_behind


def accuracies(*values: float) -> Scores:
    return Scores("val/accuracy", "max", list(values))


OTHERS = [accuracies(0.5, 0.7), accuracies(0.6, 0.8), accuracies(0.4, 0.9)]


@pytest.mark.parametrize(
    ("own", "others", "siblings", "median"),
    [
        (accuracies(0.4, 0.7), [*OTHERS, accuracies(0.9)], 4, None),  # one has not come so far
        (accuracies(0.4), [*OTHERS, accuracies(0.9)], 4, 0.55),  # but so far it has
        (accuracies(0.4, 0.7), [run._replace(metric="val/mAP") for run in OTHERS], 1, None),
        (accuracies(0.55 - 1e-8), OTHERS[:2], 2, None),  # as good but for rounding
        (accuracies(math.nan), OTHERS, 3, 0.5),  # what is no number is the worst
        (Scores("val/loss", "min", [3.0]), [Scores("val/loss", "min", [2.0])], 1, 2.0),
    ],
)
def test_median_rule(own, others, siblings, median):
    assert falls_behind(own, others, siblings) == pytest.approx(median)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(("mode", "direction"), [("max", "maximize"), ("min", "minimize")])
def test_median_rule_is_that_of_optuna(mode, direction):
    """Where all others have ended: then its rule and ours see the same."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    random, decisions = np.random.default_rng(0), []
    for _ in range(60):
        runs = random.normal(size=(5, 3))
        study = optuna.create_study(
            direction=direction, pruner=optuna.pruners.MedianPruner(4, n_warmup_steps=0)
        )
        for values in runs[1:]:
            steps = dict(enumerate(values.tolist()))
            study.add_trial(optuna.create_trial(value=values[-1], intermediate_values=steps))
        trial = study.ask()
        for step, value in enumerate(runs[0]):
            trial.report(value, step)
        own, *others = (Scores("metric", mode, values.tolist()) for values in runs)
        decisions.append(falls_behind(own, others, 4) is not None)
        assert decisions[-1] == trial.should_prune()
    assert 5 < sum(decisions) < 55


def only_sweep(folder: Path) -> Path:
    (found,) = folder.glob("runs/sweep_train/*")
    return found


def test_search(succeeds, flowers, tmp_path):
    settings = ["+data=flowers", "+model=lenet", *TINY, "trainer.max_epochs=2"]
    done = succeeds("train", *settings, "+sweep=optuna", "hydra.sweeper.n_trials=2")
    folder = only_sweep(tmp_path)
    scores = sweep.read(folder)
    assert [run.name for run in scores] == ["0", "1"]
    assert all(len(each.values) == 2 and not each.pruned for each in scores.values())
    assert not (tmp_path / "weights").exists() and not list(folder.glob("*/predictions.csv"))

    found = OmegaConf.load(folder / "optimization_results.yaml")
    assert found.best_value == pytest.approx(max(each.best for each in scores.values()))
    assert set(found.best_params) == {
        *("model.task.optimizer.lr", "model.task.optimizer.weight_decay"),
        "data.augment.strength",
    }
    assert all(f"{key}  " in done.out for key in found.best_params)
    assert re.search(r"runs +2, 0 stopped early", done.out)

    command = re.search(r"train with it +python train.py (.*)", done.out)
    place = re.search(r"runs .*\nrun +(\S+)\n", done.out)
    assert command and place
    best = scores[tmp_path / place[1]]
    again = succeeds("train", *shlex.split(command[1]))
    assert re.search(rf"best val/accuracy +{best.best:.4f}\n", again.out), again.out
    assert (tmp_path / "weights/lenet_flowers.safetensors").exists()
    assert not list((tmp_path / "runs/train").rglob(sweep.NAME)), "not a run of a sweep"


def test_less_of_a_loss_is_better(succeeds, flowers, tmp_path):
    settings = [*TINY_OF["flow"], "sweep=optuna", "hydra.sweeper.n_trials=2"]
    done = succeeds("train", *settings, "model.task.optimizer.lr=choice(1e-8,1e-2)")
    losses = [each.best for each in sweep.read(only_sweep(tmp_path)).values()]
    found = OmegaConf.load(only_sweep(tmp_path) / "optimization_results.yaml")
    assert found.best_value == pytest.approx(-min(losses))
    assert re.search(rf"best val/loss +{min(losses):.4f}\n.*\n.*\n.*\n.*\nruns ", done.out)


def test_a_run_that_diverges_ends_no_search(succeeds, flowers, tmp_path):
    settings = [*TINY, "trainer.max_epochs=2", "model.task.optimizer.lr=1e30,1e-9,1e-3"]
    done = succeeds("train", "-m", *settings)
    folder = only_sweep(tmp_path)
    assert "diverged, and counts as the worst run" in (folder / "0/train.log").read_text()
    assert sorted(file.parent.name for file in folder.glob("*/model.safetensors")) == ["1", "2"]
    scores = sweep.read(folder)
    assert np.isnan(scores[folder / "0"].values).all()
    assert re.search(r"\nrun +\S+/[12]\n", done.out)
    assert re.search(
        r"\nrun +model.task.optimizer.lr +epochs +best\n[12] +[01e.-]+9? +2 ", done.out
    )
    assert re.search(r"\n0 +1e\+?30 +2 +val/accuracy nan\nbest val/accuracy ", done.out)


def test_a_run_that_fails_ends_no_sweep(run, flowers, tmp_path):
    """The other runs go on, also with a figure that is not measured in each epoch."""
    settings = [*TINY, "trainer.max_epochs=2", "+trainer.check_val_every_n_epoch=2"]
    done = run("train", "-m", *settings, "data.root=nothing,data/flowers")
    assert done.status == 1 and "nothing" in done.out and "its sweep goes on" in done.out
    assert re.search(r"\nrun +data.root +epochs +best\n1 +data/flowers +2 +val/acc", done.out)
    assert re.search(r"runs +1, 0 stopped early, 1 failed", done.out)


def test_pruned(succeeds, flowers, tmp_path):
    settings = [*TINY, "trainer.max_epochs=3", "trainer.prune_after=1", "trainer.prune_siblings=2"]
    succeeds("train", "-m", *settings, "model.task.optimizer.lr=1e-2,9e-3,1e-9")
    folder = only_sweep(tmp_path)
    scores = [sweep.read(folder)[folder / name] for name in "012"]
    assert [len(each.values) for each in scores] == [3, 3, 1]
    assert [each.pruned for each in scores] == [False, False, True]
    assert "stopped after epoch 1: best val/accuracy" in (folder / "2/train.log").read_text()
    assert (folder / "2/model.safetensors").exists()
    tested = [path.parent.name for path in sorted(folder.glob("*/predictions.csv"))]
    assert tested == ["0", "1"]


def test_side_by_side(succeeds, flowers, tmp_path):
    """Two processes, as in the documentation: one folder, the log says whose line it is."""
    settings = [*TINY, "sweep=optuna", "hydra.sweeper.n_trials=2"]
    succeeds("train", *settings, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    folder = only_sweep(tmp_path)
    assert len(sweep.read(folder)) == 2
    for name in "01":
        assert f"run {name}: epoch 1/1" in (folder / name / "train.log").read_text()


@pytest.mark.parametrize("name", ["joblib", "submitit_local", "submitit_slurm"])
def test_launchers(name, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda program: program)  # SLURM's
    plugin = f"hydra_plugins.hydra_{name.partition('_')[0]}_launcher"
    lines = [f"hydra/launcher={name}", "sweep=optuna", "hydra.sweeper.n_jobs=2"]
    assert checks.check("train", lines) == [
        f"++hydra.callbacks.best._target_={sweep.__name__}.Best"
    ]
    launcher = compose("train", *lines, return_hydra_config=True).hydra.launcher
    assert hydra.utils.get_class(launcher._target_).__module__.startswith(plugin)


def test_slurm_that_is_not_there(fails, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = fails("train", "-m", "seed=0,1", "hydra/launcher=submitit_slurm")
    assert "no 'srun' on this machine" in said
    assert said.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "said", "command"),
    [
        ("hydra/sweeper/optuna", "sweep=optuna", "poetry install --extras optuna"),
        ("hydra/launcher/joblib", "+hydra/launcher=joblib", "poetry install --extras joblib"),
    ],
)
def test_plugin_that_is_not_installed(run, tmp_path, monkeypatch, option, said, command):
    Plugins.instance()  # has them in the store, where they are hidden now
    _, kind, name = option.split("/")
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"][kind], f"{name}.yaml")
    done = run("train", "-m", said)
    group = option.rpartition("/")[0]
    assert done.status == 1 and done.err.startswith(f"error: {group}={name} is not installed; ")
    assert command in done.err and done.err.count("\n") == 1 and not list(tmp_path.iterdir())
