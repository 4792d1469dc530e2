"""Metadata of a trained model: made once from the data, then saved with weights and exports."""

import json
import math
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors import SafetensorError, safe_open

from nano_cv.errors import UserError, listing

WEIGHTS = "model.safetensors"  # in the folder of every run of train.py
# What Triton, file systems and URLs take. Triton's loading hangs for ever at a space.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,149}")
Fit = Literal["stretch", "letterbox"]
Shape = Literal["square", "pictures"]  # of the input of a network
LARGEST = 2**13  # pixels, of the side of what a network sees
Size = int | Sequence[int]  # of what a network sees, in pixels: the side of a square, or [H, W]
# What ends a line for Python or for Triton, moves a terminal's cursor, or is no text at all.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
CONFIDENCE = 0.3  # score from which on a box is shown, where none was fitted to the class
TAGGING = "tagging"  # the task of a classifier of pictures with several labels each
KEY = "contract"  # of the metadata in weights, ONNX and config.pbtxt: older files have it
JPEG = "_from_jpeg"  # the end of the name of the twin of a model that takes encoded pictures


@dataclass(frozen=True)
class Metadata:
    """Classes, sizes and origin of a model, read by evaluation, export and serving.

    Attributes:
        task: `classification`, ...; the lower-case name of the task's class. `tagging` is a
            classification with several labels per picture.
        model: name of the model config, for example `lenet`.
        data: name of the data config, for example `flowers`.
        classes: class names; position is the class index.
        image_size: of the input in pixels: the side of a square, or height and width.
        mean: per channel R, G, B, of pixels scaled to 0..1.
        std: likewise.
        fit: how a picture is fitted into the input, see `images.place`.
        network: the options that the network was built with.
        data_hash: SHA-256 over the names, contents and targets of the pictures.
        git_commit: the commit trained with, `+` behind it where the tree had changes.
        run_id: MLflow's, if tracked there.
        metrics: of the epoch that was kept, by name, such as `val/accuracy`.
        thresholds: of a detector, the score from which on a box of each class is shown and counted;
            empty where none were fitted, as in older files. With several labels per picture, the
            probability from which on a picture has each label.
        temperature: of a classifier, divides the logits before the softmax.
        coverage: of a classifier, the share of pictures whose label set is to hold the true class;
            None if there are no label sets, as in older files.
        set_from: the probability from which on a class is in the label set; 0 puts every class in.
        pretrained: the weights that the training started from, with their licence; empty if none.
    """

    task: str
    model: str
    data: str
    classes: list[str]
    image_size: Size
    mean: list[float]
    std: list[float]
    fit: str = "stretch"
    network: dict[str, Any] = field(default_factory=dict)
    data_hash: str = ""
    git_commit: str = ""
    run_id: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    thresholds: list[float] = field(default_factory=list)
    temperature: float = 1.0
    coverage: float | None = None
    set_from: float | None = None
    pretrained: str = ""

    @property
    def name(self) -> str:
        """`lenet_flowers`: the one name of weights, ONNX model, Triton model and MLflow model."""
        return f"{self.model}_{self.data}"

    @property
    def confidences(self) -> list[float]:
        """The score from which on a box of each class is shown and counted."""
        return self.thresholds or [CONFIDENCE] * len(self.classes)

    def at_confidence(self, confidence: float | None) -> "Metadata":
        """A copy that has this threshold for all classes; None keeps the model's own."""
        if confidence is None:
            return self
        return replace(self, thresholds=[confidence] * len(self.classes))

    def to_json(self) -> str:
        """Serialise, keys in a fixed order."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Metadata":
        """Read the JSON of `to_json`; unknown fields of newer versions are left out.

        Raises:
            ValueError: anything else. What is read here becomes settings of a command line, so a
                network option is a number, a word or a list of those.
            TypeError: likewise.
        """
        given = json.loads(text)
        if not isinstance(given, dict):
            raise TypeError("not a JSON object")
        metadata = cls(
            **{each.name: given[each.name] for each in fields(cls) if each.name in given}
        )
        lists = (metadata.classes, metadata.mean, metadata.std, metadata.thresholds)
        mappings = (metadata.network, metadata.metrics)
        if not (
            all(isinstance(value, list) for value in lists)
            and all(isinstance(value, dict) for value in mappings)
        ):
            raise TypeError("a list or a mapping belongs there")
        texts = (metadata.task, metadata.model, metadata.data, metadata.fit, *metadata.classes)
        texts += (metadata.data_hash, metadata.git_commit, metadata.run_id, *metadata.metrics)
        texts += (metadata.pretrained,)
        numbers = (*metadata.mean, *metadata.std, *metadata.metrics.values())
        numbers += (*metadata.thresholds, metadata.temperature)
        numbers += tuple(one for one in (metadata.coverage, metadata.set_from) if one is not None)
        if not (
            all(isinstance(text, str) and not CONTROL.search(text) for text in texts)
            and all(isinstance(number, int | float) for number in numbers)
            and metadata.fit in get_args(Fit)
            and _is_size(metadata.image_size)
            and len(metadata.mean) == len(metadata.std) == 3
            and len(metadata.thresholds) in (0, len(metadata.classes))
            and all(0 <= threshold <= 1 for threshold in metadata.thresholds)
            and 0 < metadata.temperature < math.inf
            and (metadata.coverage is None) == (metadata.set_from is None)
            and 0 <= (metadata.coverage or 0) <= 1
            and 0 <= (metadata.set_from or 0) <= 1
            and all(map(_is_option, metadata.network, metadata.network.values()))
        ):
            raise ValueError("a value that train.py does not write")
        return metadata


def check_name(name: str) -> None:
    """Refuse a name `<model>_<data>` that Triton could not serve, or that export gives to others.

    Raises:
        UserError: says which characters are allowed, and which settings make the name.
    """
    if not NAME.fullmatch(name):
        needed = (
            "1 to 150 letters (a-z, A-Z), digits, '_', '-' and '.', the first no '-' or '.', "
            "are allowed"
        )
    elif name.endswith(JPEG) or re.fullmatch(r"decode_[0-9]+(x[0-9]+)?(_[a-z]+)?", name):
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


def height_width(size: Size) -> tuple[int, int]:
    """Height and width in pixels; of a square, its side twice."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _is_size(size: object) -> bool:
    sides = [size] * 2 if type(size) is int else size
    if not isinstance(sides, list) or len(sides) != 2:
        return False
    return all(type(side) is int and 0 < side <= LARGEST for side in sides)


def _is_option(key: str, value: object) -> bool:
    if isinstance(value, list):
        return all(_is_option(key, each) for each in value)
    plain = value is None or isinstance(value, str | int | float)
    return key.isidentifier() and key[0] != "_" and plain and "${" not in str(value)


def read_metadata(path: Path) -> Metadata:
    """The metadata of a weights file; loads no torch.

    Raises:
        UserError: no such file, not safetensors, cut short, or without a metadata.
    """
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(KEY, "")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; to fetch the pretrained weights, type: dvc pull; "
            "to train your own: python train.py with the same data and model"
        ) from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file, or cut short ({error})") from error
    try:
        return Metadata.from_json(text)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: holds no metadata; train.py did not write this file") from error


def weights_of(given: str) -> Path:
    """The weights file that a person means: the file itself, or the folder of its run.

    Raises:
        UserError: a folder without weights, or a checkpoint; says what to give instead.
    """
    path = Path(given).expanduser()
    run = path if path.is_dir() else path.parent.parent
    if path.suffix == ".ckpt":
        advice = f"a checkpoint, to go on with; give the folder of its run: weights={run}"
    elif not path.is_dir() or (path / WEIGHTS).exists():
        return path / WEIGHTS if path.is_dir() else path
    elif (path / "checkpoints").is_dir():
        advice = f"this training has not ended; to go on with it, add resume={run} to train.py"
    else:
        advice = f"no {WEIGHTS} in this folder; the folder of a run of train.py has one"
    raise UserError(f"{path}: {advice}")


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
