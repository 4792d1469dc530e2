"""What a trained model promises: made once from the data, then carried along with the weights."""

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nano_cv.errors import UserError, listing

# What Triton, file systems and URLs take. Triton's loading hangs for ever at a space.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# What ends a line for Python or for Triton, moves a terminal's cursor, or is no text at all.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
JPEG = "_from_jpeg"  # the end of the name of the ensemble that decodes for a model


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
        """Read what `to_json` wrote; raises `ValueError` or `TypeError` on anything else.

        A stranger may have written it: its names must be fit for a terminal and for file names.
        """
        contract = cls(**json.loads(text))
        names = [contract.task, contract.model, contract.data, contract.fit, *contract.classes]
        if any(CONTROL.search(name) for name in names):
            raise ValueError("control characters in its names")
        return contract


def check_name(name: str) -> None:
    """Refuse a name `<model>_<data>` that Triton could not serve, or that export gives to others.

    Raises:
        UserError: says which characters are allowed, and which settings make the name.
    """
    if not NAME.fullmatch(name) or len(name) > 150:  # file systems end at 255
        needed = (
            "1 to 150 letters (a-z, A-Z), digits, '_', '-' and '.', the first no '-' or '.', "
            "are allowed"
        )
    elif name.endswith(JPEG) or re.fullmatch(r"decode_[0-9]+(_[a-z]+)?", name):
        needed = "an exported decoder has this name"
    else:
        return
    raise UserError(
        f"{name!r} cannot be the name of a model: {needed}. It is made of the settings "
        "model.name and data.name; set data.name to another, for example data.name=flowers"
    )


def check_classes(classes: Sequence[str]) -> None:
    """Refuse class names that a file with a line for each could not hold, or a terminal show.

    Raises:
        UserError: names them, control characters escaped.
    """
    bad = [name for name in classes if not name.strip() or CONTROL.search(name)]
    if bad:
        raise UserError(
            f"class names {listing(map(ascii, bad))}: line breaks, tabs and other control "
            "characters are not allowed, nor a name of spaces only; rename these classes"
        )


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
