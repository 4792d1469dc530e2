"""Saves and loads `weights/<model>_<data>.safetensors`, the files that DVC ships.

A safetensors file holds tensors and text, and no code that could run when it is loaded. The text is
the metadata of the model.
"""

import filecmp
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from nano_cv.errors import UserError, listing
from nano_cv.files import locked, write_whole
from nano_cv.metadata import KEY, WEIGHTS, read_metadata
from nano_cv.tasks.classification import Classification, Familiarity
from nano_cv.tasks.task import Task

FAMILIARITY = "familiarity."  # begins the names of tensors that are not the network's
log = logging.getLogger(__name__)


def save(task: Task, path: Path, half: bool = False) -> None:
    """Write the weights of `task` with its metadata; whole or not at all.

    With `half`, kernels and matrices are written as float16. Vectors stay as they are, because the
    statistics of batch norms may be too large for float16.

    Raises:
        UserError: weights are not finite numbers.
    """
    tensors = {name: tensor.contiguous() for name, tensor in _state(task).items()}
    if half:
        tensors = {name: t.half() if t.ndim > 1 else t for name, t in tensors.items()}
    wrong = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if wrong:
        why = "are too large for float16; leave out half=true" if half else "are no finite numbers"
        raise UserError(f"{path}: not written, for {listing(wrong, most=3)} {why}")
    # safetensors' own writing hides a full disk's OSError.
    write_whole(path, to_bytes(tensors, metadata={KEY: task.metadata.to_json()}))


def publish(own: Path, path: Path, mode: str, unfit: str | None) -> Path:
    """Copy a run's weights to `weights/`, where infer.py and export_model.py look for them.

    The file that was there is kept as `<name>.previous.safetensors`. An older kept file is
    overwritten only if the folder of a run still holds the same file; otherwise it is renamed to
    `<name>.previous-1.safetensors` and so on.

    Args:
        own: the weights file in the folder of the run that has ended.
        path: `weights/<model>_<data>.safetensors`.
        mode: `max` if a higher metric is better, else `min`.
        unfit: the reason why this run must not replace `path`, such as a debug run; None if it may.

    Returns:
        The file that holds the weights of this run: `path`, or `own` if nothing was replaced.
    """
    if unfit:
        log.info("%s is left as it is, because of %s; these weights are %s", path, unfit, own)
        return own
    content = own.read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):  # other trainings of this model and data set may end now
        if not path.exists():
            outcome = "new"
        elif path.read_bytes() == content:
            outcome = "as it was"
        elif _same_network(own, path):  # of a finished run that was resumed
            outcome = "the same weights again"
        else:
            kept = _keep(path, own.parent.parent.glob(f"*/{WEIGHTS}"))
            outcome = f"{_compared(own, path, mode)}, kept as {kept.name}"
        write_whole(path, content)  # renamed over a link, not written through it
    log.info("%s: %s", path, outcome)
    return path


def _same_network(own: Path, other: Path) -> bool:
    """Return whether two files hold the same network, whatever their metadata and calibration."""
    try:
        first, second = network_tensors(own), network_tensors(other)
    except (SafetensorError, OSError):
        return False
    return first.keys() == second.keys() and all(first[k].equal(second[k]) for k in first)


def _keep(path: Path, of_runs: Iterable[Path]) -> Path:
    kept = path.with_suffix(f".previous{path.suffix}")
    if kept.exists() and not any(filecmp.cmp(kept, file, shallow=False) for file in of_runs):
        number = 1
        while (older := kept.with_name(f"{kept.stem}-{number}{kept.suffix}")).exists():
            number += 1
        kept.rename(older)
    write_whole(kept, path.read_bytes())
    return kept


def _compared(own: Path, path: Path, mode: str) -> str:
    """Say in words how the new weights compare with the old, by their validation metric."""
    metadata = read_metadata(own)
    try:
        before = read_metadata(path)
    except UserError:
        return "replaces a file that is not one of train.py's"
    metric = next(iter({**metadata.metrics, **before.metrics}), "metric")
    new, old = (each.metrics.get(metric, math.nan) for each in (metadata, before))
    other = f"weights judged by {listing(before.metrics)}"
    unknown = other if before.metrics else "weights that do not say theirs"
    worse = new < old if mode == "max" else new > old
    return (
        f"{metric} {'unknown' if math.isnan(new) else f'{new:.4f}'} replaces "
        + (unknown if math.isnan(old) else f"{old:.4f}")
        + (", WHICH WAS BETTER" if worse else "")
        + (", of other pictures" if before.data_hash != metadata.data_hash else "")
    )


def load(task: Task, path: Path) -> None:
    """Load the network of `task` from a file, and its familiarity, if the file has one.

    Raises:
        UserError: the tensors do not fit this network, some of which are named, or are not finite.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:  # since its metadata was read
        raise UserError(f"{path}: not a safetensors file, or cut short ({error})") from error
    if isinstance(task, Classification):
        task.familiarity = None
        if any(name.startswith(FAMILIARITY) for name in tensors):
            plane = tensors.get(f"{FAMILIARITY}plane")
            last: Any = getattr(task.network, "classifier", None)
            shape = None if plane is None else (last.in_features, plane.shape[-1])
            task.familiarity = Familiarity(shape)
    own = _state(task)
    wrong = sorted(tensors.keys() ^ own.keys())
    wrong += [
        name for name in tensors.keys() & own.keys() if tensors[name].shape != own[name].shape
    ]
    if wrong:
        raise UserError(
            f"{path}: not the weights of this {task.metadata.model}: {listing(wrong, most=4)}; if "
            "an older version of nano-cv wrote them, train again, or use that version"
        )
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise UserError(f"{path}: some weights are no finite numbers; train again")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _state(task: Task) -> dict[str, Tensor]:
    """The tensors of a task by their names in the file: those of the network have no prefix."""
    return {name.removeprefix("network."): tensor for name, tensor in task.state_dict().items()}


def network_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of the network in a weights file."""
    tensors = load_file(path)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(FAMILIARITY)}
