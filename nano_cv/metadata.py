"""Metadata of a trained model, made once from the data, and saved with weights and exports."""

import json
import math
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Len, Lt, Predicate
from safetensors import SafetensorError, safe_open

from nano_cv.errors import UserError, listing, nearest

WEIGHTS = "model.safetensors"  # in the folder of every run of train.py
# Names that Triton, file systems and URLs accept. With a space, Triton's loading hangs for ever.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,149}")
Fit = Literal["stretch", "letterbox"]
Shape = Literal["square", "pictures"]  # of a network's input; `pictures`: as the training images
MAX_INPUT_SIDE = 2**13  # pixels, the longest side of a network's input
Size = int | Sequence[int]  # of a network's input in pixels: the side of a square, or [H, W]
# Characters that end a line for Python or Triton, move a terminal's cursor, or are no text at all.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
Word = Annotated[str, Predicate(lambda text: not CONTROL.search(text))]
OptionName = Annotated[str, Predicate(lambda key: key.isidentifier() and key[0] != "_")]
Side = Annotated[int, Ge(1), Le(MAX_INPUT_SIDE)]  # pixels
Share = Annotated[float, Ge(0), Le(1)]
Channels = Annotated[list[float], Len(3, 3)]  # R G B
CONFIDENCE = 0.3  # default of the least score with which a box is shown
TAGGING = "tagging"  # the task of a classifier with several labels per image
KEY = "contract"  # key of the metadata in weights, ONNX and config.pbtxt, kept for older files
JPEG = "_from_jpeg"  # suffix of the twin of a model, which takes encoded images


def _is_option(value: object) -> bool:
    """Whether a value may be an option of a network, as it becomes a setting of a command line."""
    if isinstance(value, list):
        return all(map(_is_option, value))
    return value is None or (isinstance(value, str | int | float) and "${" not in str(value))


@dataclass(frozen=True)
class Metadata:
    """Classes, sizes and origin of a model, read by evaluation, export and serving."""

    # `classification`, ...: the lower-case name of the task's class; `tagging` is a classification
    # with several labels per picture.
    task: Word
    model: Word  # name of the model config, for example `lenet`
    data: Word  # name of the data config, for example `flowers`
    classes: list[Word]  # their names; position is the class index
    # Size of the input in pixels: the side of a square, or height and width.
    image_size: Side | Annotated[Sequence[Side], Len(2, 2)]
    mean: Channels  # R, G, B, of pixels scaled to 0..1
    std: Channels  # standard deviation, likewise
    # How an image is fitted into the input, see `images.place`.
    fit: Annotated[str, Predicate(lambda fit: fit in get_args(Fit))] = "stretch"
    # The options that the network was built with, and those of the task that change its answers,
    # such as `guidance`.
    network: dict[OptionName, Annotated[Any, Predicate(_is_option)]] = field(default_factory=dict)
    answer_options: dict[OptionName, int | float] = field(default_factory=dict)
    data_hash: Word = ""  # SHA-256 over the names, contents and targets of the images
    git_commit: Word = ""  # of the training code, with `+` if the tree had changes
    run_id: Word = ""  # of the run in MLflow, if tracked there
    # Of the epoch that was kept, by name, such as `val/accuracy`.
    metrics: dict[Word, float] = field(default_factory=dict)
    # Per class the least score with which a detector's box is shown and counted, or the least
    # probability with which an image gets this label, if it may have several. Empty if none were
    # fitted, as in older files.
    thresholds: list[Share] = field(default_factory=list)
    # A classifier divides its logits by this before the softmax.
    temperature: Annotated[float, Gt(0), Lt(math.inf)] = 1.0
    # Share of the images whose label set should hold the true class; None: no sets (older files).
    coverage: Share | None = None
    set_from: Share | None = None  # least probability of a class in its set; 0 puts every class in
    pretrained: Word = ""  # the weights that the training started from, with their licence, if any
    mirrored: bool = True  # whether training images were mirrored, as `tta` needs

    @property
    def name(self) -> str:
        """Name of weights, ONNX model, Triton model and MLflow model, such as `lenet_flowers`."""
        return f"{self.model}_{self.data}"

    @property
    def confidences(self) -> list[float]:
        """Least score of a box that is shown and counted, per class."""
        return self.thresholds or [CONFIDENCE] * len(self.classes)

    def at_confidence(self, confidence: float | None) -> "Metadata":
        """Return a copy with this threshold for all classes; None keeps the model's thresholds.

        Raises:
            UserError: the model has no thresholds.
        """
        if confidence is None:
            return self
        if self.task not in ("detection", TAGGING):
            what = "is for boxes and for several labels per picture"
            raise UserError(f"confidence={confidence}: {what}, and {self.name} has neither")
        return replace(self, thresholds=[confidence] * len(self.classes))

    def to_json(self) -> str:
        """Serialise as JSON, with keys in a fixed order."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Metadata":
        """Read the JSON of `to_json`; unknown fields of newer versions are left out.

        Raises:
            ValueError: the text is no such JSON, or train.py does not write such values.
        """
        from pydantic import TypeAdapter  # imported late, as Triton's decoders never read metadata

        metadata = TypeAdapter(cls).validate_json(text, strict=True)
        if len(metadata.thresholds) not in (0, len(metadata.classes)):
            raise ValueError("thresholds: one for each class is needed")
        if (metadata.coverage is None) != (metadata.set_from is None):
            raise ValueError("coverage and set_from belong together")
        return metadata


def check_name(name: str) -> None:
    """Check that Triton can serve the name `<model>_<data>`.

    Raises:
        UserError: the message says which characters are allowed, and which settings make the name.
    """
    if not NAME.fullmatch(name):
        needed = (
            "1 to 150 letters (a-z, A-Z), digits, '_', '-' and '.', the first no '-' or '.', "
            "are allowed"
        )
    elif name.endswith(JPEG):
        needed = f"names that end in {JPEG} are those of the twins that take encoded pictures"
    else:
        return
    raise UserError(
        f"{name!r} cannot be the name of a model: {needed}. It is made of the settings "
        "model.name and data.name; change one of these, for example to data.name=my_pictures"
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


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of a weights file; loads no torch.

    Raises:
        UserError: the file is missing, cut short, not safetensors, or without metadata.
    """
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(KEY, "")
    except FileNotFoundError:
        known = [file.name for file in path.parent.glob(f"*{path.suffix}")]
        shipped = Path(f"{path}.dvc").exists()
        advice = "Type: dvc pull" if shipped else "train.py with this data and model makes it"
        raise UserError(f"{path}: no such file{nearest(path.name, known)} {advice}") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file, or cut short ({error})") from error
    try:
        return Metadata.from_json(text)
    except ValueError as error:
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
