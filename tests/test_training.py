"""A whole training: what it leaves, that it can be resumed, that it repeats itself."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import CONTRACT, TINY, TINY_OF, compose, make_flowers, python, read_csv
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file

from nano_cv.files import locked
from nano_cv.metadata import Metadata
from nano_cv.networks.lenet import LeNet
from nano_cv.networks.unet import UNet
from nano_cv.tasks import weights
from nano_cv.training import processor
from nano_cv.training.callbacks import KeepBest
from nano_cv.training.plan import duration, make_plan


def checkpoint(folder: Path, name: str = "last") -> dict:
    """A checkpoint of the only run below `folder`."""
    (path,) = folder.glob(f"runs/train/*/*/checkpoints/{name}.ckpt")
    return torch.load(path, weights_only=True)


def test_train_then_infer(run, succeeds, drawn, flowers, tmp_path):
    trained = succeeds("train", *TINY, "trainer.max_epochs=6", "model.task.ema_decay=0.5")
    (folder,) = (tmp_path / "runs/train/lenet_flowers").iterdir()
    drawn = ("data.png", "curves.png", "confusion_matrix.png", "worst_mistakes.png")
    for name in (*drawn, "predictions.csv", "train.log"):
        assert (folder / name).stat().st_size > 0
    metadata = weights.read_metadata(tmp_path / "weights/lenet_flowers.safetensors")
    assert metadata.classes == ["aster", "basil", "clover"]
    assert (metadata.task, metadata.name) == ("classification", "lenet_flowers")
    assert not [*tmp_path.glob("ml*"), *folder.glob("csv")], "logger=none"

    inferred = succeeds("infer", *TINY, "gradcam=true")
    (folder,) = (tmp_path / "runs/infer/lenet_flowers").iterdir()
    rows = read_csv(folder / "predictions.csv")
    assert len(rows) == 12
    words = ["file", "label", "target", "label_set", "foreign"]
    assert list(rows[0]) == [*words, "aster", "basil", "clover"]
    right = sum(row["label"] == row["target"] for row in rows) / len(rows)
    assert right >= 0.75, "a colour a species is not hard to learn"
    assert f"{right:.4f}" in inferred.out and f"{right:.4f}" in trained.out
    for row in rows:
        assert sum(float(row[name]) for name in metadata.classes) == pytest.approx(1, abs=1e-5)
    assert (folder / "gradcam.png").exists()

    said = run("infer", *TINY, f"input={flowers / 'aster'}").out.splitlines()
    words.remove("target")
    assert said[0].split() == [*words, "aster", "basil", "clover"], "the answers first"
    assert said[1].split()[:2] == ["plant001_label.png", "aster"] or "plant001" in said[1]
    assert said[21] == "and 28 more rows"  # pictures, labels and masks of 16 plants


def test_a_run_that_ends_tells_its_story(succeeds, drawn, flowers, tmp_path):
    """A resumed one with the epochs before the break."""
    succeeds("train", *TINY, "trainer.max_epochs=2", "test=false")
    done = succeeds("train", *TINY, "trainer.max_epochs=4", "resume=true")
    lines = [line for line in done.out.splitlines() if " epoch " in line]
    assert [line.split()[2] for line in lines] == ["3/4", "4/4"]
    assert all("val/accuracy" in line and len(line) <= 80 for line in lines)

    (folder,) = (tmp_path / "runs/train/lenet_flowers").iterdir()
    assert (folder / "curves.png").stat().st_size > 0
    states = checkpoint(tmp_path)["callbacks"].values()
    (rows,) = [state["rows"] for state in states if "rows" in state]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    reached = [row["val/accuracy"] for row in rows]
    kept = checkpoint(tmp_path, "best")["epoch"]
    assert reached[kept] == max(reached) and max(reached) not in reached[kept + 1 :]
    classes = read_csv(folder / "classes.csv")
    assert list(classes[0]) == ["class", "pictures", "precision", "recall", "f1"]
    seen = {row["class"]: row["pictures"] for row in classes}
    assert seen == {"aster": "4", "basil": "4", "clover": "4"}


def test_a_resumed_run_keeps_its_precision_and_its_best_epoch(monkeypatch):
    """Also one that an older version has begun: the keeper's name in checkpoints is the same."""
    monkeypatch.setattr(processor, "best_precision", lambda _: "bf16-mixed")
    for before in ("32-true", "bf16-mixed"):
        assert processor.choose_precision("cpu", None, None, before, 2) == before
    assert KeepBest(monitor="val/loss").state_key == ModelCheckpoint(monitor="val/loss").state_key


# The loss curve of a short training, number by number: what changes it, changes every result.
# A change that is meant to alter training (initialisation, order, augmentation, schedule, loss)
# replaces these; any other change must leave them. The tolerance covers processors, not changes.
GOLDEN = {
    "lenet": [0.87844, 0.85375, 0.74871, 0.65826, 0.50697, 0.44850, 0.36959, 0.31669, 0.30553],
    "centernet": [8.12840, 7.97157, 8.07906, 7.56839, 7.43969, 7.50127, 7.22313, 7.19439, 7.17806],
    "unet": [2.11850, 2.17724, 2.11590, 2.10935, 2.10136, 2.07765, 2.10544, 2.08666, 2.05745],
    "flow": [4.49838, 1.70294, 2.15320, 7.29939, 2.84223, 4.38335, 7.00926, 3.81022, 2.02284],
}


@pytest.mark.parametrize("model", GOLDEN)
def test_golden_curve_and_every_model_resumes(run, succeeds, flowers, tmp_path, interrupted, model):
    """Ctrl-C at the last step of the second epoch; the resumed run equals the unbroken one."""
    loading = ["data.cache=null", "data.workers=2"] if model == "lenet" else []
    settings = [one for one in TINY_OF[model] if one != "logger=none"]
    settings += [*loading, "trainer.max_epochs=3", "seed=1", "test=false", "logger=csv"]
    settings.append("trainer.log_every_n_steps=1")
    succeeds("train", *settings)
    (metrics,) = tmp_path.glob(f"runs/train/{model}_flowers/*/csv/version_0/metrics.csv")
    assert not list(tmp_path.glob("ml*")), "logger=csv"
    losses = [row["train/loss_step"] for row in read_csv(metrics)]
    assert [float(one) for one in losses if one] == pytest.approx(GOLDEN[model], rel=1e-3)
    # Saved are the averages of the best epoch, not the weights that the optimiser has reached.
    weights_file = tmp_path / f"weights/{model}_flowers.safetensors"
    saved, unbroken = weights.network_tensors(weights_file), weights_file.read_bytes()
    best, whole = checkpoint(tmp_path, "best"), checkpoint(tmp_path)
    for part, same in (("state_dict", True), ("current_model_state", False)):
        tensors = [best[part][f"task.network.{name}"] for name in saved]
        assert all(map(torch.equal, tensors, saved.values())) == same
    assert int(best["averaging_state"]["n_averaged"]) == best["global_step"]

    shutil.rmtree(tmp_path / "runs")
    weights_file.unlink()
    with interrupted(1, 2):
        broken = run("train", *settings)
    assert broken.status == 130 and "resume=true" in broken.err
    assert "Traceback" not in broken.err and "weights_only" not in broken.out + broken.err
    assert not weights_file.exists() and checkpoint(tmp_path)["global_step"] == 5

    succeeds("train", *settings, "resume=true")
    assert weights_file.read_bytes() == unbroken
    resumed = checkpoint(tmp_path)
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert whole[part].keys() == resumed[part].keys()
        assert all(torch.equal(whole[part][name], resumed[part][name]) for name in whole[part])
    for part in ("lr_schedulers", "global_step"):
        assert whole[part] == resumed[part]


def test_only_a_whole_run_replaces_weights(succeeds, flowers, tmp_path):
    """Neither a debug run nor one of a sweep, and what was there is kept beside."""
    shipped = tmp_path / "weights/lenet_flowers.safetensors"
    cache = tmp_path / "cache of dvc"
    cache.write_bytes(b"shipped")
    shipped.parent.mkdir()
    shipped.symlink_to(cache)
    settings = [*TINY, "test=false"]
    debug = succeeds("train", *settings, "experiment=debug")
    assert "is left as it is, because of trainer.limit_train_batches=2" in debug.out
    succeeds("train", "-m", *settings, "seed=1")
    assert [file.read_bytes() for file in shipped.parent.iterdir()] == [b"shipped"]

    def train(seed: int) -> tuple[Path, str]:
        done = succeeds("train", *settings, f"seed={seed}")
        place = re.search(r"\nrun +(\S+)\n", done.out)
        assert place
        return tmp_path / place[1] / "model.safetensors", done.out

    first, said = train(0)
    assert "replaces a file that is not one of train.py's, kept as" in said
    assert shipped.read_bytes() == first.read_bytes() and not shipped.is_symlink()
    assert cache.read_bytes() == b"shipped"
    second, said = train(1)
    new, old = (weights.read_metadata(file).metrics["val/accuracy"] for file in (second, first))
    assert f"val/accuracy {new:.4f} replaces {old:.4f}" in said
    third, said = train(0)
    assert ("WHICH WAS BETTER" in said) == (old < new)
    kept = {file.name: file.read_bytes() for file in shipped.parent.iterdir()}
    assert kept == {
        "lenet_flowers.safetensors": third.read_bytes(),
        "lenet_flowers.previous.safetensors": second.read_bytes(),
        "lenet_flowers.previous-1.safetensors": b"shipped",
    }, "of the first there is the file in its run"

    owns = [tmp_path / f"elsewhere/{number}/model.safetensors" for number in range(4)]
    tensors, metadata = load_file(third), {"contract": weights.read_metadata(third).to_json()}
    for number, own in enumerate(owns):
        own.parent.mkdir(parents=True)
        save_file({name: tensor + number + 1 for name, tensor in tensors.items()}, own, metadata)
    code = (
        "import sys, time; from pathlib import Path; from nano_cv.tasks.weights import publish\n"
        "own, path = map(Path, sys.argv[1:]); own.with_suffix('.ready').touch()\n"
        f"while len(list(own.parents[1].glob('*/*.ready'))) < {len(owns)}: time.sleep(0.001)\n"
        "publish(own, path, 'max', None)"
    )
    with ThreadPoolExecutor(len(owns)) as pool:  # processes that end at the same moment
        ended = [pool.submit(python, "-c", code, own, shipped, cwd=tmp_path) for own in owns]
    assert [one.result().returncode for one in ended] == [0] * len(owns)
    assert {*kept.values()} <= {file.read_bytes() for file in shipped.parent.glob("*.previous*")}


def test_weights_alone_are_enough(run, succeeds, flowers, tmp_path):
    """A run's folder says model, size, options and set; what is typed goes first."""
    plain = ["logger=none", "trainer.accelerator=cpu"]
    succeeds("train", *TINY_OF["unet"], *plain, "test=false")
    succeeds("infer", "model=unet", *plain)  # size and options are those of the weights
    (folder,) = (tmp_path / "runs/train/unet_flowers").iterdir()
    shutil.rmtree(tmp_path / "weights")
    asked = f"weights={folder.relative_to(tmp_path)}"
    tested = succeeds("infer", asked, *plain)
    assert "test/mIoU" in tested.out, tested.err
    said = run("infer", f"{asked}/checkpoints/last.ckpt").err
    assert f"give the folder of its run: {asked}\n" in said
    assert "no model.safetensors in this folder" in run("infer", "weights=runs").err

    shutil.rmtree(tmp_path / "data")  # no set is needed for pictures of one's own
    shutil.rmtree(tmp_path / ".cache")
    make_flowers(tmp_path / "pictures")
    both = ",".join(f"pictures/aster/plant00{number}_rgb.jpg" for number in (1, 2))
    succeeds("infer", "-m", f"{asked},{folder}", *plain, f"input={both}")


def test_weights_of_strangers(run, flowers, tmp_path):
    """Their metadata becomes settings: never more than numbers and words, of models known here."""
    for changed, answer in {
        '"model": "mynet"': "of model=mynet, and there is no model/mynet.yaml; give the config",
        '"data": "birds"': "trained on 'birds', which is no option of data; say where",
        '"network": {"channels": {"_target_": "os.system"}}': "holds no metadata",
        '"network": {"channels": "${oc.env:HOME}"}': "holds no metadata",
        '"network": {"_target_": "os.system"}': "holds no metadata",
        '"image_size": 1000000000': "holds no metadata",
        '"classes": [1, 2]': "holds no metadata",
    }.items():
        text = json.dumps(json.loads(CONTRACT.to_json()) | json.loads(f"{{{changed}}}"))
        save_file({"x": torch.zeros(2)}, "foreign.safetensors", {"contract": text})
        said = run("infer", "weights=foreign.safetensors", "logger=none").err
        assert answer in said and "Traceback" not in said
    newer = json.loads(CONTRACT.to_json()) | {"colour": "of a newer version"}
    assert Metadata.from_json(json.dumps(newer)) == CONTRACT


def test_patience_is_that_of_now(run, succeeds, flowers, tmp_path):
    """Stopped after an epoch without improvement; resumed with more patience it goes on."""
    settings = [*TINY, "test=false", "model.task.optimizer.lr=1e-9"]
    short = succeeds("train", *settings, "trainer.max_epochs=6", "trainer.patience=1")
    assert checkpoint(tmp_path)["epoch"] == 1, short.err
    assert "stopped after epoch 2, as val/accuracy got no better (trainer.patience=1)" in short.out
    # As if it had been started by a version without one setting, and with another.
    (kept,) = tmp_path.glob("runs/train/*/*/.hydra/config.yaml")
    config = OmegaConf.load(kept)
    del config.model.task.mixup
    config.model.task.gone = 1
    OmegaConf.save(config, kept)
    longer = [*settings, "trainer.max_epochs=4", "trainer.patience=9"]
    said = run("train", *longer, "resume=true", "model.task.mixup=0.5").err
    assert "was started with model.task.mixup=0.0, and now it is 0.5" in said
    (folder,) = (tmp_path / "runs/train/lenet_flowers").iterdir()
    moved = tmp_path / "elsewhere"
    folder.rename(moved)  # with its best epoch
    assert "stopped after" not in succeeds("train", *longer, f"resume={moved}").out
    state = torch.load(moved / "checkpoints/last.ckpt", weights_only=True)
    assert state["epoch"] == 3
    said = run("train", *longer, f"resume={moved}", "trainer.limit_train_batches=1").err
    assert "was started with trainer.limit_train_batches=1.0, and now it is 1;" in said


def test_a_run_goes_on_as_it_was_begun(succeeds, fails, flowers, tmp_path):
    """With other settings, pictures or a damaged file it is refused; nothing is trained."""

    def refused(*changes: str) -> str:
        return fails("train", *TINY, "trainer.max_epochs=2", "resume=true", *changes)

    succeeds("train", *TINY, "trainer.max_epochs=2", "test=false")
    said = refused("model.task.optimizer.lr=0.5")
    assert "was started with model.task.optimizer.lr=" in said and "now it is 0.5" in said
    assert "has seen 2 epochs already" in refused("trainer.max_epochs=1")
    later = tmp_path / "runs/train/lenet_flowers/later"
    (later / ".hydra").mkdir(parents=True)  # as of a run that was killed in its first epoch
    said = refused()
    assert f"{later.relative_to(tmp_path)} began after the last checkpoint of" in said
    shutil.rmtree(later)
    picture = next(flowers.glob("aster/*_rgb.jpg"))
    content = picture.read_bytes()
    picture.write_bytes(next(flowers.glob("basil/*_rgb.jpg")).read_bytes())
    assert "last.ckpt: learnt from other pictures or labels than these" in refused()
    picture.write_bytes(content)
    (best,) = tmp_path.glob("runs/train/*/*/checkpoints/best.ckpt")
    with locked(best.parent):
        assert "another process is training this run; wait for its end, or stop it" in refused()
    best.write_bytes(best.read_bytes()[:1000])
    assert "best.ckpt: damaged" in refused()
    best.unlink()
    assert "best.ckpt: not there any more" in refused()


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ("lenet", "trainer.max_epochs=3"),
        *((model, "data.batch_size=64") for model in ("lenet", "centernet")),
    ],
)
def test_a_training_that_diverges_says_so_and_leaves_no_weights(
    fails, flowers, tmp_path, model, setting
):
    """Also where only the last step went wrong, which the training loss does not see."""
    assert "diverged" in fails("train", *TINY_OF[model], "model.task.optimizer.lr=1e30", setting)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(("model", "network"), [("unet", UNet), ("lenet", LeNet)])
def test_classes_that_are_never_predicted_are_named(succeeds, flowers, monkeypatch, model, network):
    """Of equal logits, the first class is predicted."""
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda self, images: forward(self, images) * 0)
    done = succeeds("train", *TINY_OF[model], "test=false", "data.balance=full")
    assert "data.balance=full: weights in the loss: " in done.out
    assert "val: never predicted: " in done.out


UNPLANNED = [*(one for one in TINY if "max_epochs" not in one), "test=false"]


def plan(pictures: int, *settings: str):
    least = ("trainer.min_epochs=20", "trainer.min_steps=600")
    return make_plan(compose("train", *least, *settings), pictures)


@pytest.mark.parametrize(
    ("pictures", "batch", "repeats", "steps", "epochs"),
    [
        (560, 16, 1, 35, 20),  # enough steps in 20 epochs
        (440, 16, 1, 28, 22),  # a few are lacking: more epochs
        (240, 16, 2, 30, 20),  # half of them are lacking: twice per epoch
        (31, 4, 3, 23, 27),  # batches of 16 would leave half of the pictures out
        (5, 4, 24, 30, 20),
    ],
)
def test_small_sets_are_seen_several_times(pictures, batch, repeats, steps, epochs):
    found = plan(pictures)
    assert found[:5] == (pictures, batch, repeats, epochs, steps)
    assert found.epochs * found.steps >= 600


def test_a_tiny_set_is_not_learnt_by_heart_and_max_epochs_rules():
    found = plan(5, "trainer.min_steps=5000")
    assert 1250 <= found.epochs * found.steps < 1400  # each picture 1,000 times, 4 in a step
    found = plan(240, "trainer.max_epochs=3")
    assert (found.epochs, found.repeats, found.steps) == (3, 1, 15)
    assert plan(240, "trainer.max_epochs=3", "trainer.limit_train_batches=2").steps == 2


def test_durations():
    for seconds, said in {42.4: "42 s", 420: "7 min", 7500: "2 h 05 min"}.items():
        assert duration(seconds) == said


def test_a_budget_in_minutes_ends_in_time(succeeds, flowers, tmp_path):
    settings = [*UNPLANNED, "trainer.min_epochs=5000", "trainer.min_steps=15000"]
    succeeds("train", *settings, "trainer.minutes=0.03", "+trainer.accumulate_grad_batches=2")
    last = checkpoint(tmp_path)
    assert last["epoch"] < 1000
    rate, first = last["lr_schedulers"][0]["_last_lr"][0], last["lr_schedulers"][0]["base_lrs"][0]
    assert rate < 0.05 * first, "the rate has fallen"


def test_other_regularisation_after_a_training_of_ones_own(succeeds, fails, flowers):
    succeeds("train", *TINY, "test=false")
    file = "model.pretrained=weights/lenet_flowers.safetensors"
    again = ("data.name=again", file, "model.task.network.dropout=0.5")
    succeeds("train", *TINY, "test=false", *again)
    said = fails("train", *TINY, "data.name=again", file, "model.task.network.channels=[4]")
    assert "trained with other options of lenet; add: 'model.task.network.channels=" in said


def test_a_resumed_run_keeps_the_epochs_of_its_budget(
    run, succeeds, flowers, interrupted, tmp_path
):
    settings = [*UNPLANNED, "trainer.min_epochs=5", "trainer.min_steps=15", "trainer.minutes=0.1"]
    with interrupted(6) as planned:
        assert run("train", *settings).status == 130
    said = run("train", *settings[:-1], "trainer.minutes=0.2", "resume=true").err
    assert "was started with trainer.minutes=0.1, and now it is 0.2; give the same" in said
    succeeds("train", *settings, "resume=true")
    assert checkpoint(tmp_path)["epoch"] + 1 == planned[0] > 6
