"""The model card: what a model is for, how good it is, where it comes from, and how to call it."""

from collections.abc import Mapping
from math import isnan

from nano_cv.errors import printable
from nano_cv.metadata import TAGGING, Metadata, height_width

CARD = "model_card.md"
PURPOSES = {
    "classification": "Names the class of a picture.",
    TAGGING: "Names the labels of a picture: any number of them, or none.",
    "detection": "Finds objects in a picture: a box, a class and a score for each.",
    "segmentation": "Names the class of every pixel of a picture.",
    "generation": "Makes pictures of a class.",
}
LIMITS = {
    "classification": "Every picture gets one of these classes, also a picture of something else.",
    TAGGING: "Anything that is none of these labels is not named.",
    "detection": "Objects of other classes are not found, or are taken for one of these classes.",
    "segmentation": "Every pixel gets one of these classes, also a pixel of something else.",
    "generation": "The pictures are made up. They show nothing that was photographed.",
}
FIT_WORDS = {
    "stretch": "stretched to this size, so that its proportions may change",
    "letterbox": "scaled to fit this size, with a border around it",
}
FOREIGN_LIMITS = (
    "A picture unlike the training pictures is called foreign. Not every picture of something else "
    "is: it may get one of these classes."
)


def make_card(metadata: Metadata, figures: Mapping[str, float]) -> str:
    """The card of a model as Markdown, with `figures` in addition to those of its metadata."""
    height, width = height_width(metadata.image_size)
    classes = ", ".join(metadata.classes)
    limits = LIMITS.get(metadata.task, "It knows only these classes.")
    if metadata.task == "classification" and metadata.coverage is not None:
        limits = FOREIGN_LIMITS
    known = {**metadata.metrics, **figures}
    rows = [f"| {name} | {value:.4g} |" for name, value in known.items() if not isnan(value)]
    lines = [
        f"# {metadata.name}",
        PURPOSES.get(metadata.task, f"A model for {metadata.task}."),
        "## Figures",
        "| figure | value |\n|---|--:|\n" + "\n".join(rows) if rows else "None are known here.",
        "`val/...` was measured on the validation pictures, which also chose the best epoch."
        if rows
        else "",
        "## Data",
        f"- Data set: `{metadata.data}`, SHA-256 `{metadata.data_hash or 'unknown'}`.\n"
        f"- {len(metadata.classes)} classes: {classes}.",
        "## Where the weights come from",
        f"- Trained with `model={metadata.model}` at commit `{metadata.git_commit or 'unknown'}`"
        + (f", MLflow run `{metadata.run_id}`.\n" if metadata.run_id else ".\n")
        + f"- Started from {metadata.pretrained or 'random weights'}.\n"
        "- The licence of the training pictures applies too. This program does not know it.",
        "## Limits",
        f"- {limits}\n"
        "- The figures hold for pictures like those of the data set. Measure on your own pictures.",
        "## How to call it",
        f"The input is {height} x {width} pixels (height x width)."
        + (f" A picture is {FIT_WORDS[metadata.fit]}." if metadata.task != "generation" else ""),
        "With `python serve.py` running:",
        f"```bash\n{_command(metadata)}\n```",
    ]
    return printable("\n\n".join(line for line in lines if line)) + "\n"


def _command(metadata: Metadata) -> str:
    address = f"http://127.0.0.1:8000/models/{metadata.name}/predict"
    if metadata.task == "generation":
        return (
            f"curl --request POST --header 'Accept: image/png' --output made.png '{address}?seed=7'"
        )
    return f"curl --data-binary @photo.jpg {address}"
