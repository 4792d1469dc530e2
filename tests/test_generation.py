"""Generation: from noise and a class to a picture, what the pictures are worth, and the scripts."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONTRACT, SHOP, TINY, TINY_OF, make_flowers, read_csv, run_in
from PIL import Image
from torch import Tensor, nn

from nano_cv.config.checks import check
from nano_cv.data.formats.flowers import read_flowers
from nano_cv.data.imagined import Imagined, noise
from nano_cv.data.pictures import Resized
from nano_cv.errors import UserError
from nano_cv.evaluation.reports.generation import GenerationReport, covered, frechet
from nano_cv.export import precision
from nano_cv.metadata import read_metadata
from nano_cv.networks.flow_unet import FlowUNet
from nano_cv.tasks.generation import Generation

HALF = [0.5, 0.5, 0.5]
CONTRACT = replace(CONTRACT, task="generation", model="flow", mean=HALF, std=HALF)
ANY = len(CONTRACT.classes)
FLOW = TINY_OF["flow"]


def task_of(network: nn.Module, **options) -> Generation:
    task = Generation(metadata=CONTRACT, network=lambda **_: network, **options).eval()
    task.log_losses = lambda split, losses, batch: losses["loss"]  # there is no trainer
    return task


def known(pixels: Tensor, **options) -> Generation:
    """Its network knows what the picture of each class is, and of any: `[K + 1, 3, H, W]`."""
    network, pictures = nn.Module(), pixels.float() / 127.5 - 1
    network.forward = lambda noisy, times, labels: pictures[labels]
    return task_of(network, **options)


@pytest.fixture
def pixels() -> Tensor:
    """A picture of each class, and one of any."""
    return torch.from_numpy(np.random.default_rng(1).integers(40, 216, (ANY + 1, 3, 32, 32)))


@pytest.fixture
def untrained() -> Generation:
    torch.manual_seed(0)
    network = FlowUNet(ANY, image_size=32, channels=[8, 16], width=16)
    for parameter in network.parameters():  # many begin at zero, and would hide what is before
        nn.init.normal_(parameter, std=0.2)
    return task_of(network, steps=2)


def ask(task: Generation, *labels: int, seed: int = 0) -> np.ndarray:
    given = Imagined(labels, CONTRACT.classes, 32, seed).inputs(range(len(labels)))
    with torch.inference_mode():
        return task.predict(*map(torch.from_numpy, given.values()))["IMAGES"].numpy().astype(int)


def test_noise_is_the_same_everywhere():
    golden = [-1.516544, 1.5570054, 0.4491565]
    assert noise(7, 3, 64)[0, 0, :3] == pytest.approx(golden, abs=1e-6)
    assert noise(0, 0, 64)[0, 0, :2] == pytest.approx([1.117622, -1.3871249], abs=1e-6)
    alone = Imagined([0] * 4, CONTRACT.classes, 32, seed=7).inputs([3])
    among = Imagined([0] * 9, CONTRACT.classes, 32, seed=7).inputs(range(9))
    assert np.array_equal(alone["NOISE"][0], among["NOISE"][3])
    assert np.array_equal(alone["NOISE"][0], noise(7, 3, 32))
    assert len(np.unique(among["NOISE"][:, 0, 0, 0])) == 9
    assert abs(among["NOISE"].mean()) < 0.02 and abs(among["NOISE"].std() - 1) < 0.02


def test_noise_and_label_make_the_picture(untrained):
    first, again, other = ask(untrained, 0, 2), ask(untrained, 0, 2), ask(untrained, 1, 2)
    assert np.array_equal(first, again)
    assert np.abs(first[0] - other[0]).max() > 20 and np.array_equal(first[1], other[1])
    assert np.abs(first - ask(untrained, 0, 2, seed=1)).mean() > 10
    assert np.abs(ask(untrained, 0)[0] - first[0]).max() <= 1  # whatever else is in the batch


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 40])
def test_a_known_picture_is_reached(pixels, steps):
    made = ask(known(pixels, steps=steps, guidance=1.0), 0, 1, 2, 1)
    assert np.abs(made - pixels[[0, 1, 2, 1]].numpy()).max() <= 1


def test_guidance(pixels):
    """1 is the class's own direction, 0 that of any picture, 2 as far again."""
    pixels = pixels // 8 + 100
    own, anyone, task = pixels[[0, 1, 2]].numpy(), pixels[[3, 3, 3]].numpy(), known(pixels)
    for task.guidance, aim in ((1.0, own), (0.0, anyone), (2.0, 2 * own - anyone)):
        assert np.abs(ask(task, 0, 1, 2) - aim).max() <= 1


def test_a_known_picture_has_no_loss(pixels):
    """Not even in the last twentieth of the way, where the division is bounded."""
    task, labels = known(pixels, drop_label=0.0), torch.arange(ANY).repeat(200)
    loss = task.training_losses(pixels[labels], labels)["loss"]
    assert float(loss) == pytest.approx(0, abs=1e-9)
    assert float(task.training_losses(pixels[labels] + 9, labels)["loss"]) > 1e-3


def test_validation_is_the_same_each_time(untrained, pixels):
    batch = pixels[:ANY], torch.arange(ANY)
    places, state, losses = torch.arange(ANY), torch.get_rng_state(), []
    with torch.inference_mode():
        for index in (0, 0, 1):
            losses.append(float(untrained.validate(*batch, places + index)[0]["loss"]))
            torch.rand(1)
    assert losses[0] == losses[1] != losses[2]
    after = torch.rand(2)
    torch.set_rng_state(state)
    assert torch.equal(after, torch.rand(5)[3:])


def test_the_loss_of_two_processes_is_that_of_one(untrained, pixels):
    labels, places = torch.arange(8) % ANY, torch.arange(8)
    images = pixels[labels]
    parts = (slice(None), slice(0, None, 2), slice(1, None, 2))
    with torch.inference_mode():
        validated = [untrained.validate(images[own], labels[own], places[own]) for own in parts]
    losses = [float(own["loss"]) for own, _ in validated]
    assert losses[0] == pytest.approx(sum(losses[1:]) / 2, rel=1e-5)


def test_frechet():
    some = np.random.default_rng(0).standard_normal((500, 4)) * [1, 2, 3, 4]
    some -= some.mean(axis=0)
    assert frechet(some, some) == pytest.approx(0, abs=1e-6)
    assert frechet(some, some + np.array([3, 0, 4, 0])) == pytest.approx(25)
    variance = some.var(axis=0, ddof=1).sum()  # (2 - 1)^2 times it, for twice the deviation
    assert frechet(some, 2 * some) == pytest.approx(variance)
    assert frechet(2 * some + 1, some) == pytest.approx(variance + 4)


def test_covered():
    manifold = np.array([[0], [1], [2], [3], [10]], np.float32)  # that reach 3, 2, 2, 3 and 9
    some = np.array([[-2.5], [-3.5], [0.5], [18.5], [19.5]], np.float32)
    assert covered(some, manifold) == pytest.approx(3 / 5)
    assert covered(manifold, manifold) == 1
    assert covered(some[:2], manifold[:2]) == 0  # two pictures, that reach 1


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> dict[str, Resized]:
    root = make_flowers(tmp_path_factory.mktemp("real") / "flowers")
    return {name: Resized(one, 48, None) for name, one in read_flowers(root, "generation").items()}


def worth(images: np.ndarray, real: dict[str, Resized], judge: Path | None = None):
    targets = real["train"].pictures.targets
    labels = [targets[index % len(targets)] for index in range(len(images))]
    pictures = Imagined(labels, CONTRACT.classes, 48, 0, real, judge)
    return GenerationReport(CONTRACT, {"IMAGES": np.ascontiguousarray(images)}, pictures).metrics()


@pytest.mark.parametrize("mirrored", [1, -1])
@pytest.mark.parametrize("quarters", [0, 1, 3])
def test_copies_are_found(real, mirrored, quarters):
    train = real["train"].fetch(range(len(real["train"])))
    figures = worth(np.rot90(train[..., ::mirrored], quarters, axes=(2, 3)), real)
    assert figures["nearest"] == pytest.approx(0, abs=0.03) and figures["copies"] == 1
    others = worth(real["val"].fetch(range(12)), real)
    assert 0.8 < others["nearest"] < 1.25 and others["copies"] == 0


def test_one_picture_has_no_fid(real, in_shop, judge, caplog):
    images = real["train"].fetch([0])
    figures = worth(images, real, in_shop / "judges/lenet64_flowers.safetensors")
    assert "fid" not in figures and figures["accuracy"] in (0, 1)
    assert "fid is left out: it needs two pictures" in caplog.text


def test_compare_is_in_levels():
    dark = np.zeros((2, 3, 4, 4), np.uint8)
    light = dark.copy()
    light[1, 0, 2, 3] = 255
    for pair in ((dark, light), (light, dark)):
        found = GenerationReport.compare(*({"IMAGES": images} for images in pair))
        assert found["levels"].tolist() == [0, 255]


@pytest.fixture(scope="module")
def judge(shop) -> str:
    """The folder with the weights of a tiny classifier; elsewhere there is none."""
    run_in(shop, "train", *TINY, "model=lenet64", "paths.weights=judges", "test=false")
    return "paths.weights=judges"


@pytest.fixture
def infer(in_shop, succeeds, tmp_path):
    """Runs infer.py and returns its output and the pictures by name."""

    def call(*arguments: str):
        folder = tmp_path / f"run_{len(list(tmp_path.iterdir()))}"
        done = succeeds("infer", *FLOW, *arguments, f"hydra.run.dir={folder}")
        pictures = {file.name: file for file in (folder / "pictures").iterdir()}
        rows = read_csv(folder / "predictions.csv")
        assert {row["file"] for row in rows} == {f"pictures/{name}" for name in pictures}
        return done.out + done.err, pictures

    return call


def array(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)).astype(int)


def test_what_a_training_leaves(in_shop):
    (folder,) = (in_shop / "runs/train/flow_flowers").iterdir()
    for name in ("previews/epoch_001.png", "samples.png", "nearest_training_pictures.png"):
        assert array(folder / name).std() > 0
    height, width, _ = array(folder / "previews/epoch_001.png").shape
    assert height < 200 < 1000 < width, "eight pictures side by side, enlarged"
    pictures = sorted(file.name for file in (folder / "pictures").iterdir())
    assert len(pictures) == 12 and pictures[:2] == ["aster_000.png", "aster_001.png"]
    assert array(folder / "pictures/aster_000.png").shape == (32, 32, 3)


ASKED = ("labels=[aster,clover]", "count=5", "seed=7")


def test_asked_for_pictures(infer):
    (_, first), (_, again) = infer(*ASKED), infer(*ASKED)
    names = ["aster_000", "aster_002", "aster_004", "clover_001", "clover_003"]
    assert sorted(first) == [f"{name}.png" for name in names]
    assert all(again[name].read_bytes() == file.read_bytes() for name, file in first.items())
    _, fewer = infer("labels=[aster,clover]", "count=2", "seed=7")
    assert sorted(fewer) == ["aster_000.png", "clover_001.png"]
    for name, file in fewer.items():
        assert np.abs(array(file) - array(first[name])).max() <= 1
    _, other = infer("labels=[aster,clover]", "count=5", "seed=8")
    assert all((array(other[name]) != array(file)).any() for name, file in first.items())


def test_without_a_judge(infer):
    said, pictures = infer("trainer.limit_test_batches=1")
    assert "lenet64_flowers.safetensors: no judge there" in said
    assert "python train.py +model=lenet64" in said
    assert "test/nearest" in said and "test/copies" in said and "test/accuracy" not in said
    assert len(pictures) == 8


def test_with_a_judge(infer, judge):
    said, _ = infer(judge, "weights=weights/flow_flowers.safetensors")
    figures = {name: float(value) for name, value in re.findall(r"test/(\S+) +(\S+)", said)}
    shares = {"accuracy", "accuracy/real", "precision", "recall", "copies"}
    shares |= {f"accuracy/{name}" for name in CONTRACT.classes}
    assert figures.keys() == shares | {"fid", "nearest"}
    assert all(0 <= figures[name] <= 1 for name in shares)
    assert figures["fid"] > 0 and figures["nearest"] > 0
    assert "no judge" not in said


def test_the_judge_takes_real_pictures_for_real(real, judge, shop):
    train = real["train"].fetch(range(len(real["train"])))
    weights = shop / "judges/lenet64_flowers.safetensors"
    figures = worth(train, real, weights)
    assert figures["fid"] == pytest.approx(0, abs=1e-6)
    assert figures["precision"] == figures["recall"] == 1
    black = worth(np.zeros_like(train), real, weights)
    assert black["fid"] > figures["fid"] and black["precision"] == black["recall"] == 0
    with pytest.raises(UserError, match="a judge is a lenet, and this is a unet"):
        worth(train, real, shop / "weights/unet_flowers.safetensors")


@pytest.mark.parametrize(
    ("model", "typed", "said"),
    [
        ("flow", "labels=[astre]", "labels=astre: no such class; did you mean 'aster'? Allowed: a"),
        ("flow", "input=data", "input=data: a generator takes no pictures; use labels=[...] count"),
        ("flow", "gradcam=true", "gradcam=true: is for classification, and model=flow does gen"),
        ("lenet", "labels=[aster]", "labels=['aster']: is for generation, and model=lenet do"),
        ("unet", "count=3", "count=3: is for generation, and model=unet does segmentation"),
    ],
)
def test_what_infer_refuses(in_shop, fails, model, typed, said):
    assert said in fails("infer", *SHOP[model], typed)


def test_int8(in_shop, judge, succeeds, fails, tmp_path, monkeypatch):
    """Refused where nobody can say what it loses."""
    monkeypatch.setattr(precision, "compare_speeds", lambda *_: [1.0, 1.5])
    export = ("export_model", *FLOW, "precision=int8", "max_drop=1", f"paths.models={tmp_path}")
    assert "int8: the validation accuracy is not known here" in fails(*export)
    done = succeeds(*export, judge, "weights=weights/flow_flowers.safetensors")
    assert "int8" in done.out


def test_wide_pictures_are_generated_judged_and_exported(succeeds, flowers, tmp_path):
    """What the models of pictures do is tested with `shop`, up to the server."""
    settings = [*FLOW, "model.image_size=[32,64]"]
    succeeds("train", *TINY_OF["lenet"], "model=lenet64", "test=false")
    done = succeeds("train", *settings, "model.task.guidance=1.5", "model.task.steps=2")
    assert "test/accuracy " in done.out, done.err
    added = check("infer", [*settings, "model.task.steps=3"])
    assert "++model.task.guidance=1.5" in added, "kept with the weights, as it makes the pictures"
    assert not [one for one in added if "steps" in one], "typed"
    assert read_metadata(tmp_path / "weights/flow_flowers.safetensors").image_size == [32, 64]
    succeeds("export_model", *settings)
