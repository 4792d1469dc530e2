"""Engines compute predictions: torch, onnxruntime or a Triton server, behind one interface.

`exported` and `opening` have the engines of exported models. Only `Torch` imports torch. Shapes: B
pictures of a batch, N pictures in all.
"""

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.data.progress import track
from nano_cv.errors import UserError
from nano_cv.metadata import Metadata

if TYPE_CHECKING:
    from nano_cv.tasks.task import Task

Arrays = Mapping[str, NDArray[Any]]


class Engine(ABC):
    """A trained model that predicts, to be closed at its end."""

    metadata: Metadata
    source: Mapping[str, Path | str]  # where the model comes from, for the summary: name and place

    @abstractmethod
    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute the outputs of the task's `predict` from its inputs, by name, each `[B, ...]`."""

    def close(self) -> None:  # noqa: B027
        """Close connections; most engines have none."""


def predict_all(
    engine: Engine,
    inputs: Callable[[Sequence[int]], Arrays],
    count: int,
    batch_size: int,
    tta: bool = False,
) -> dict[str, NDArray[Any]]:
    """Predict `count` pictures in batches; returns the outputs by name, each `[N, ...]`.

    `inputs` makes the inputs of the pictures with the given indices. With `tta` (test-time
    augmentation), a classifier predicts each picture and its mirror image: probabilities are means,
    and the label set holds the classes of both.
    """
    parts = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    batches = []
    for part in track(parts, len(parts), "Predicting"):
        batch = inputs(part)
        answers = engine.predict(batch)
        if tta:
            mirrored = engine.predict({"IMAGES": batch["IMAGES"][..., ::-1].copy()})
            answers = {
                name: own | mirrored[name] if own.dtype == bool else (own + mirrored[name]) / 2
                for name, own in answers.items()
            }
        batches.append(answers)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


class Torch(Engine):
    """A task in this process, always in float32, so that all engines agree.

    `accelerator` is `auto`, `cpu`, `gpu` or `mps`, as for the trainer.

    Raises:
        UserError: this machine has no such accelerator.
    """

    def __init__(self, task: "Task", path: Path, accelerator: str = "auto") -> None:
        self.device = find_device(accelerator)
        self.task = task.to(device=self.device).float().eval()
        self.metadata, self.source = task.metadata, {"weights": path}

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Engine`."""
        import torch

        with torch.inference_mode():
            tensors = [torch.from_numpy(array).to(self.device) for array in inputs.values()]
            outputs = self.task.predict(*tensors)
            return {name: output.cpu().numpy() for name, output in outputs.items()}


def processor_flags() -> set[str]:
    """The abilities of this processor, by Linux's names, such as `avx512_bf16`."""
    if (platform.system(), platform.machine()) == ("Darwin", "arm64"):
        return {"asimddp"}  # as all of Apple's since the M1
    cpuinfo = Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


def find_device(accelerator: str) -> Any:
    """The torch device of this machine for `auto`, `cpu`, `gpu` or `mps`."""
    import torch

    have = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    wanted = {"auto": ("cuda", "mps", "cpu"), "gpu": ("cuda", "mps")}.get(
        accelerator, (accelerator,)
    )
    for name in wanted:
        if have.get(name, name == "cpu"):
            return torch.device(name)
    raise UserError(f"trainer.accelerator={accelerator}: this machine has none; leave it out")
