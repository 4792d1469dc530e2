"""`weights/<model>_<data>.safetensors`: what infer.py and export_model.py read and DVC ships.

Safetensors hold tensors and text and nothing that could run when loaded; the contract is the text.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from nano_cv.contract import Contract
from nano_cv.errors import UserError, listing
from nano_cv.files import replacing
from nano_cv.tasks.task import Task


def save(task: Task, path: Path, half: bool = False) -> None:
    """Write the weights of `task` with its contract; whole or not at all.

    Args:
        task: with the network.
        path: the file.
        half: kernels and matrices as float16, in half the space. The rest stays as it is, for the
            statistics of batch norms may have any size.
    """
    tensors = {name: tensor.contiguous() for name, tensor in task.network.state_dict().items()}
    if half:
        tensors = {name: one.half() if one.ndim > 1 else one for name, one in tensors.items()}
    content = to_bytes(tensors, metadata={"contract": task.contract.to_json()})
    with replacing(path) as temporary:  # safetensors' own writing hides a full disk's OSError
        temporary.write_bytes(content)


def read_contract(path: Path) -> Contract:
    """The contract of a weights file.

    Raises:
        UserError: no such file, not safetensors, cut short, or without a contract.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("contract", "")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; to fetch the pretrained weights, type: dvc pull; "
            "to train your own: python train.py with the same data and model"
        ) from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file, or cut short ({error})") from error
    try:
        return Contract.from_json(text)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: holds no contract; train.py did not write this file") from error


def check_network(contract: Contract, path: Path, model: str, options: dict[str, Any]) -> None:
    """The network about to be built must be the one that was trained.

    Args:
        contract: of the weights file at `path`.
        model: name of the model config.
        options: what that config would build the network with, and its `image_size`.

    Raises:
        UserError: another model, or other options of it; says what to type.
    """
    if contract.model != model:
        raise UserError(
            f"{path}: weights of model={contract.model}, not of model={model}; "
            f"type +model={contract.model}, or train: python train.py +model={model}"
        )
    trained = contract.network | {"image_size": contract.image_size}
    overrides = [
        f"'model.{'' if key == 'image_size' else 'task.network.'}{key}={json.dumps(value)}'"
        for key, value in trained.items()
        if options.get(key) != value
    ]
    if overrides:
        raise UserError(
            f"{path}: trained with other options of {model}; add: {' '.join(overrides)}"
        )


def load(task: Task, path: Path) -> None:
    """Fill the network of `task` from the file.

    Raises:
        UserError: the tensors are not those of this network; names some of them.
    """
    tensors, own = load_file(path), task.network.state_dict()
    wrong = sorted(tensors.keys() ^ own.keys())
    wrong += [
        name for name in tensors.keys() & own.keys() if tensors[name].shape != own[name].shape
    ]
    if wrong:
        raise UserError(
            f"{path}: not the weights of this {task.contract.model}: {listing(wrong, most=4)}"
        )
    task.network.load_state_dict(tensors)
