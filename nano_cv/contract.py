"""What a trained model promises: made once from the data, then carried along with the weights."""

import json
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Contract:
    """Plain data that everything downstream reads instead of typing it again.

    Attributes:
        task: `classification`, ...; the lower-case name of the task's class.
        model: name of the model config, for example `lenet`.
        data: name of the data config, for example `flowers`.
        classes: class names; position is the class index.
        image_size: side of the square input in pixels.
        mean: per channel R, G, B, of pixels scaled to 0..1.
        std: likewise.
        fit: how a picture is fitted into the square, see `images.place`.
        network: the options that the network was built with.
        data_hash: SHA-256 over the names, contents and targets of the pictures.
        git_commit: the commit trained with, `+` behind it where the tree had changes.
        run_id: MLflow's, if tracked there.
    """

    task: str
    model: str
    data: str
    classes: list[str]
    image_size: int
    mean: list[float]
    std: list[float]
    fit: str = "stretch"
    network: dict[str, Any] = field(default_factory=dict)
    data_hash: str = ""
    git_commit: str = ""
    run_id: str = ""

    @property
    def name(self) -> str:
        """`lenet_flowers`: the one name of weights, ONNX model, Triton model and MLflow model."""
        return f"{self.model}_{self.data}"

    def to_json(self) -> str:
        """Serialise, keys in a fixed order."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Contract":
        """Read what `to_json` wrote; raises `ValueError` or `TypeError` on anything else."""
        return cls(**json.loads(text))


def git_commit() -> str:
    """The short commit of this checkout, `+` behind it where tracked files differ; else empty."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
