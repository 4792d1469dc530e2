"""Networks of timm, the weights that they start from, and what fine-tuning needs."""

import importlib
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from conftest import CONTRACT, TINY, compose, read_csv, rename_class
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import load_file
from torch import nn

from nano_cv import building
from nano_cv.data.augment import Augment
from nano_cv.data.formats.flowers import read_flowers
from nano_cv.data.pictures import Resized
from nano_cv.data.targets import Boxes
from nano_cv.errors import UserError
from nano_cv.evaluation.trained import trained_task
from nano_cv.networks.backbone import Backbone
from nano_cv.networks.centernet import CenterNet
from nano_cv.networks.pretrained import LITE0, PACKAGED, fill, imagenet_weights
from nano_cv.networks.resnet import ResNet
from nano_cv.networks.unet import UNet
from nano_cv.tasks import weights
from nano_cv.tasks.classification import Classification
from nano_cv.training import starting
from nano_cv.training.learner import Learner

SMALL = "test_resnet"  # one of timm's for tests: 0.5 M parameters
BACKBONE = [
    *(setting for setting in TINY if "channels" not in setting),
    *("model=timm", f"model.task.network.name={SMALL}"),
]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", [SMALL, "test_vit", "test_convnext"])
def test_any_network_of_timm(name):
    network = Backbone(5, image_size=160, name=name).eval()
    assert network(torch.zeros(2, 3, 160, 160)).shape == (2, 5)


@pytest.mark.parametrize(("size", "stem"), [(28, ()), (33, (8,)), (64, (8, 8))])
def test_resnet_takes_any_size(size, stem):
    network = ResNet(7, size, stem, channels=(8, 16, 24), blocks=(1, 2, 1)).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_sizes_that_the_configs_promise():
    assert parameters(ResNet(5)) < 1e6
    assert parameters(ResNet(10, 28, (), (24, 48, 64), (1, 1, 1))) < 110e3


@pytest.mark.parametrize("model", ["unet", "centernet"])
def test_backbones_train_and_are_found_again(succeeds, fails, flowers, model):
    settings = [f"model={model}", *BACKBONE[:-2], f"model.task.network.backbone={SMALL}"]
    succeeds("train", *settings)
    succeeds("infer", *settings)
    succeeds("infer", *settings[:-1])  # the weights say which backbone it is
    said = fails("infer", *settings[:-1], "model.task.network.backbone=null")
    assert f"'model.task.network.backbone=\"{SMALL}\"'" in said


@pytest.mark.parametrize(("number", "size"), [(0, 192), (0, 224), (1, 240), (2, 260)])
def test_weights_of_the_packages_are_those_of_timm(number, size):
    """The network that they were written for, padded for its own size, gives the same logits."""
    name = f"tf_efficientnet_lite{number}"
    package = importlib.import_module(PACKAGED[name])
    file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    theirs = EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=file).eval()
    ours = timm.create_model(name).eval()
    ours.load_state_dict(imagenet_weights(name))
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, actual = theirs(images), ours(images)
    assert expected.abs().max() > 1 and torch.allclose(expected, actual, atol=1e-5)


def test_classifier_is_new_and_the_rest_is_not():
    network = Backbone(5, name=LITE0)
    network.load_pretrained()
    assert not network.body.classifier.weight.any(), "no class is preferred at first"
    known = imagenet_weights(LITE0)
    assert torch.equal(network.body.conv_stem.weight, known["conv_stem.weight"])
    for other in (UNet(3, 64, backbone=LITE0), CenterNet(2, 64, backbone=LITE0)):
        other.load_pretrained()
        assert torch.equal(other.body.encoder.conv_stem.weight, known["conv_stem.weight"])


def test_weights_of_another_network_and_freezing_the_whole_are_refused():
    with pytest.raises(ValueError, match="frozen=6: test_resnet has 6 stages, one must learn"):
        Backbone(3, name=SMALL, frozen=6)
    with pytest.raises(UserError, match="weights of another network"):
        fill(Backbone(5, name=SMALL), imagenet_weights(LITE0), 1000)


def test_no_weights_to_start_from(fails, flowers, tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_network)
    assert "cannot be fetched" in fails("train", *BACKBONE, "model.pretrained=imagenet")
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(("model", "settings"), [(SMALL, BACKBONE), ("lenet", TINY)])
def test_own_weights_of_other_classes_to_start_from(succeeds, flowers, tmp_path, model, settings):
    succeeds("train", *settings, "test=false")
    rename_class(flowers, "aster", "zinnia")
    first = tmp_path / f"weights/{model}_flowers.safetensors"
    still = ["model.task.optimizer.lr=1e-12", "model.task.ema_decay=null", "data.name=again"]
    succeeds("train", *settings, *still, "test=false", f"model.pretrained={first}")
    before = load_file(first)
    after = load_file(tmp_path / f"weights/{model}_again.safetensors")
    kernels = [name for name in before if before[name].ndim == 4]
    assert kernels and all(torch.allclose(before[name], after[name]) for name in kernels)


@pytest.mark.parametrize(
    ("typed", "mean"), [([], [0.5] * 3), (["model.mean=[0.4,0.4,0.4]"], [0.4] * 3)]
)
def test_normalisation_is_that_of_the_backbone(typed, mean):
    config = compose("train", "model=efficientnet_lite0", *typed)
    assert starting.statistics_of(config)[0] == mean


def make(layer_decay: float = 1.0, **options) -> Learner:
    task = Classification(metadata=CONTRACT, network=partial(Backbone, name=SMALL), **options)
    optimizer = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.05)
    return Learner(task, optimizer, layer_decay=layer_decay)


def test_layer_decay(monkeypatch):
    learner = make(layer_decay=0.5)
    trainer = SimpleNamespace(estimated_stepping_batches=10, max_epochs=1)
    monkeypatch.setattr(Learner, "trainer", trainer)
    optimizer = learner.configure_optimizers()["optimizer"]
    groups = optimizer.param_groups
    rates = {id(one): group["initial_lr"] for group in groups for one in group["params"]}
    body = learner.task.network.body
    assert rates[id(body.fc.weight)] == pytest.approx(0.1)
    order = [rates[id(next(part.parameters()))] for part in (body.conv1, body.layer1, body.layer4)]
    assert order == sorted(order) and order[0] < order[-1] < 0.1


def test_frozen_stages_stay_as_they_are(succeeds, flowers, tmp_path):
    settings = [*BACKBONE, "model.task.network.frozen=2", "model.task.optimizer.lr=0.01"]
    torch.manual_seed(0)
    succeeds("train", *settings, "test=false", "trainer.max_epochs=2")
    trained = load_file(tmp_path / "weights/test_resnet_flowers.safetensors")
    assert trained["body.bn1.running_mean"].abs().sum() == 0, "statistics too"
    assert trained["body.layer4.0.bn1.running_mean"].abs().sum() > 0
    every = Backbone(3, name=SMALL, frozen=2).named_parameters()
    frozen = {".".join(name.split(".")[:2]) for name, one in every if not one.requires_grad}
    assert frozen == {"body.conv1", "body.bn1", "body.layer1"}


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_pictures_have_mixed_labels(mix):
    task = make(**{mix: 1}).task  # no float
    torch.manual_seed(0)
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    mixed, shares = task.mix(images, labels)
    assert shares.shape == (4, 3) and torch.allclose(shares.sum(dim=1), torch.ones(4))
    assert ((shares > 0).sum(dim=1) == 2).any() and not torch.equal(mixed, images)
    assert make().task.mix is None


@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_policy_changes_each_picture_by_itself(policy):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8).expand(6, -1, -1, -1)
    changed, labels = Augment(flip=0.0, policy=policy)(images, torch.arange(6))
    assert labels.tolist() == list(range(6)) and changed.dtype == torch.float32
    assert len({one.numpy().tobytes() for one in changed}) > 3
    with pytest.raises(UserError, match="for classification only"):
        Augment(policy=policy)(images, Boxes(torch.zeros(6, 1, 4), *torch.zeros(2, 6, 1)))


def test_mirrored_answers_are_averaged(succeeds, fails, flowers, untrained, tmp_path):
    succeeds("infer", *TINY, "tta=true", "engine=torch", f"hydra.run.dir={tmp_path / 'tta'}")
    rows = read_csv(tmp_path / "tta/predictions.csv")
    shares = [[float(row[name]) for name in CONTRACT.classes] for row in rows]
    task = trained_task(compose("infer", *TINY), untrained).eval()
    pictures = Resized(read_flowers(flowers, "classification")["test"], 32, None)
    images = torch.from_numpy(pictures.fetch(range(12)))
    with torch.no_grad():
        both = [task.predict(one)["CLASS_PROBS"] for one in (images, images.flip(3))]
    assert np.allclose(shares, (both[0] + both[1]) / 2, atol=2e-6)
    assert not np.allclose(shares, both[0], atol=1e-5)

    for setting, mirrored in (("=null", False), (".flip=0", False), (".flip=0.5", True)):
        config = compose("train", *TINY, f"data.augment{setting}")
        made = starting.make_metadata(config, building.make_data(config), "")
        assert made.mirrored == mirrored
    task.metadata = replace(task.metadata, mirrored=False)
    weights.save(task, untrained)
    assert "without mirrored pictures" in fails("infer", *TINY, "tta=true", "engine=torch")


def test_half_weights(run, succeeds, flowers, tmp_path):
    """Half as large, and what is said of them is said of what lies in the file."""
    trained = succeeds("train", *TINY, "half=true")
    path = tmp_path / "weights/lenet_flowers.safetensors"
    tensors = load_file(path)
    assert tensors["classifier.weight"].dtype == torch.float16
    assert tensors["features.0.3.running_var"].dtype == torch.float32
    assert weights.read_metadata(path).classes == CONTRACT.classes
    inferred = run("infer", *TINY)
    figures = [line.split() for line in (trained.out + inferred.out).splitlines()]
    accuracies = [words[1] for words in figures if words[:1] == ["test/accuracy"]]
    assert len(accuracies) == 2 and len(set(accuracies)) == 1
    ours, again = (tmp_path.glob(f"runs/{job}/*/*/predictions.csv") for job in ("train", "infer"))
    assert next(ours).read_text() == next(again).read_text()


def test_fine_tuning_is_never_worse_than_the_frozen_network(succeeds, flowers, tmp_path):
    """A learning rate that destroys all: what is kept is the frozen network and its classifier."""
    settings = [*BACKBONE, "test=false"]
    succeeds("train", *settings, "model.task.network.dropout=0")
    weights = tmp_path / "weights/test_resnet_flowers.safetensors"
    weights.rename(tmp_path / "start.safetensors")
    settings += ["model.pretrained=start.safetensors", "model.task.optimizer.lr=1"]
    done = succeeds("train", *settings, "model.task.ema_decay=null")

    assert "frozen network and logistic regression: val/accuracy" in done.out
    assert "no epoch was better than the frozen network, which is kept" in done.out
    assert "never predicted" not in done.out, "only epochs that are not kept miss classes"
