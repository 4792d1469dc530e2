"""Metadata of a trained model, made once from the data, and saved with weights and exports."""

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
# Names that Triton, file systems and URLs accept. With a space, Triton's loading hangs for ever.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,149}")
Fit = Literal["stretch", "letterbox"]
Shape = Literal["square", "pictures"]  # of a network's input; `pictures`: as the training images
LARGEST = 2**13  # pixels, the longest side of a network's input
Size = int | Sequence[int]  # of a network's input in pixels: the side of a square, or [H, W]
# Characters that end a line for Python or Triton, move a terminal's cursor, or are no text at all.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
CONFIDENCE = 0.3  # default of the least score with which a box is shown
TAGGING = "tagging"  # the task of a classifier with several labels per image
KEY = "contract"  # key of the metadata in weights, ONNX and config.pbtxt, kept for older files
JPEG = "_from_jpeg"  # suffix of the twin of a model, which takes encoded images


@dataclass(frozen=True)
class Metadata:
    """Classes, sizes and origin of a model, read by evaluation, export and serving.

    Attributes:
        task: `classification`, ...; the lower-case name of the task's class. `tagging` is a
            classification with several labels per picture.
        model: name of the model config, for example `lenet`.
        data: name of the data config, for example `flowers`.
        classes: class names; position is the class index.
        image_size: size of the input in pixels: the side of a square, or height and width.
        mean: mean of the channels R, G, B, of pixels scaled to 0..1.
        std: standard deviation of the channels R, G, B, of pixels scaled to 0..1.
        fit: how an image is fitted into the input, see `images.place`.
        network: the options that the network was built with.
        data_hash: SHA-256 over the names, contents and targets of the images.
        git_commit: the commit of the training code, with `+` if the tree had changes.
        run_id: id of the run in MLflow, if tracked there.
        metrics: metrics of the epoch that was kept, by name, such as `val/accuracy`.
        thresholds: of a detector, per class the least score of a box that is shown and counted;
            empty if none were fitted, as in older files. With several labels per image, the least
            probability with which an image gets each label.
        temperature: of a classifier, divides the logits before the softmax.
        coverage: of a classifier, the share of images whose label set should hold the true class;
            None if there are no label sets, as in older files.
        set_from: least probability of a class in the label set; 0 puts every class in.
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
        """Name of weights, ONNX model, Triton model and MLflow model, such as `lenet_flowers`."""
        return f"{self.model}_{self.data}"

    @property
    def confidences(self) -> list[float]:
        """Least score of a box that is shown and counted, per class."""
        return self.thresholds or [CONFIDENCE] * len(self.classes)

    def at_confidence(self, confidence: float | None) -> "Metadata":
        """Return a copy with this threshold for all classes; None keeps the model's thresholds."""
        if confidence is None:
            return self
        return replace(self, thresholds=[confidence] * len(self.classes))

    def to_json(self) -> str:
        """Serialise as JSON, with keys in a fixed order."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Metadata":
        """Read the JSON of `to_json`; unknown fields of newer versions are left out.

        Raises:
            ValueError: the text is not such JSON. Network options become settings of a command
                line, so each must be a number, a word or a list of numbers and words.
            TypeError: a value has the wrong type.
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
    """Check that Triton can serve the name `<model>_<data>`, and that it is no decoder's name.

    Raises:
        UserError: the message says which characters are allowed, and which settings make the name.
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
    """Check that class names fit into a file with a line per class, and into a terminal.

    Raises:
        UserError: the message lists the bad names, with control characters escaped.
    """
    bad = [name for name in classes if not name.strip() or CONTROL.search(name)]
    if bad:
        raise UserError(
            f"class names {listing(map(ascii, bad))}: line breaks, tabs and other control "
            "characters are not allowed, nor a name of spaces only; rename these classes"
        )


def height_width(size: Size) -> tuple[int, int]:
    """Return height and width in pixels of a size; both are the side for a square."""
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
    """Read the metadata of a weights file; loads no torch.

    Raises:
        UserError: the file is missing, cut short, not safetensors, or without metadata.
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


def shared_weights(folder: str, model: str, data: str) -> Path:
    """Return `weights/<model>_<data>.safetensors`, where a whole training leaves its weights."""
    return Path(folder, f"{model}_{data}.safetensors")


def weights_of(given: str) -> Path:
    """Return the weights file for a setting that names the file itself or the folder of its run.

    Raises:
        UserError: a folder without weights, or a checkpoint; the message says what to give instead.
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
    """Return the short commit of this checkout, with `+` if tracked files differ; empty if none."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
