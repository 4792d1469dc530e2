"""A model of a few hundred bytes for each task, exported as `export_model.py` would; no torch.

Their answers follow from the picture in ways that a test can foretell. B: number of pictures.
"""

import os
import threading
from pathlib import Path

import onnx
from onnx import helper
from onnx.parser import parse_graph

from nano_cv.export.repository import publish
from nano_cv.metadata import Metadata

CLASSES = ["red", "green", "blue"]
OPTIONS = {
    **{"max_batch_size": 4, "instances": 1, "threads": 1, "max_queue_delay_us": 0},
    **{"max_queue_size": None, "queue_timeout_us": None, "decode_instances": 1},
    **{"max_picture_bytes": 10**7, "max_picture_pixels": 10**6},
}
GRAPHS = {
    # The likeliest class is the strongest of the three colours.
    "classification": """colours (uint8[B,3,SIDE,SIDE] IMAGES) => (float[B,3] CLASS_PROBS)
    <float scale = {0.05}> {
        x = Cast <to = 1> (IMAGES)
        mean = ReduceMean <axes = [2, 3], keepdims = 0> (x)
        scores = Mul (mean, scale)
        CLASS_PROBS = Softmax <axis = 1> (scores)
    }""",
    # The labels are the colours that are more than half as strong as they can be.
    "tagging": """tags (uint8[B,3,SIDE,SIDE] IMAGES)
    => (float[B,3] CLASS_PROBS, bool[B,3] LABEL_SET)
    <float most = {255.0}, float half = {0.5}> {
        x = Cast <to = 1> (IMAGES)
        mean = ReduceMean <axes = [2, 3], keepdims = 0> (x)
        CLASS_PROBS = Div (mean, most)
        LABEL_SET = GreaterOrEqual (CLASS_PROBS, half)
    }""",
    # Always the same two boxes, in pixels of the square.
    "detection": """boxes (uint8[B,3,SIDE,SIDE] IMAGES)
    => (float[B,2,4] BOXES, float[B,2] SCORES, int64[B,2] LABELS)
    <float[1,2,4] boxes = {8.0, 8.0, 16.0, 24.0, 0.0, 0.0, 4.0, 4.0},
    float[1,2] scores = {0.9, 0.1}, int64[1,2] labels = {2, 0}, int64[1] zero = {0},
    int64[1] one = {1}> {
        shape = Shape (IMAGES)
        count = Gather <axis = 0> (shape, zero)
        rows = Concat <axis = 0> (count, one)
        tables = Concat <axis = 0> (count, one, one)
        BOXES = Expand (boxes, tables)
        SCORES = Expand (scores, rows)
        LABELS = Expand (labels, rows)
    }""",
    # Class 1 where red is above 127, else class 0.
    "segmentation": """masks (uint8[B,3,SIDE,SIDE] IMAGES) => (uint8[B,SIDE,SIDE] MASK)
    <int64 zero = {0}, float half = {127.0}> {
        red = Gather <axis = 1> (IMAGES, zero)
        x = Cast <to = 1> (red)
        above = Greater (x, half)
        MASK = Cast <to = 2> (above)
    }""",
    # Grey noise, brighter the higher the class.
    "generation": """noise (float[B,3,SIDE,SIDE] NOISE, int64[B,1] LABELS)
    => (uint8[B,3,SIDE,SIDE] IMAGES)
    <float step = {8.0}, float least = {0.0}, float most = {255.0}, int64[4] to = {-1, 1, 1, 1}> {
        label = Cast <to = 1> (LABELS)
        brighter = Mul (label, step)
        level = Reshape (brighter, to)
        sum = Add (NOISE, level)
        levels = Mul (sum, step)
        clipped = Clip (levels, least, most)
        IMAGES = Cast <to = 2> (clipped)
    }""",
}
TASKS = {task: graph.partition(" ")[0] for task, graph in GRAPHS.items()}  # names of the models


def model_of(graph: str) -> onnx.ModelProto:
    """The model of a graph in ONNX's own notation."""
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(parse_graph(graph), opset_imports=opset, ir_version=8)


def publish_all(repository: Path) -> Path:
    """A model of each task, such as `colours_tiny` and `tags_tiny`, and their decoders."""
    for task in TASKS:
        publish_one(repository, task)
    return repository


def publish_one(
    repository: Path, task: str, model: str = "", data: str = "tiny", size: int = 32
) -> None:
    """One more version of the model of a task; of another name or size if that is given."""
    model = model or TASKS[task]
    least = [0.5] * 3 if task == "tagging" else []
    metadata = Metadata(task, model, data, CLASSES, size, [0.5] * 3, [0.5] * 3, thresholds=least)
    publish_as(repository, metadata)


def publish_as(repository: Path, metadata: Metadata) -> Path:
    """The model of a task, with any metadata of three classes; its folder in the repository."""
    name = f"{metadata.model}-{os.getpid()}-{threading.get_ident()}.onnx"
    file = repository.with_name(name)
    made = model_of(GRAPHS[metadata.task].replace("SIDE", str(metadata.image_size)))
    helper.set_model_props(made, {"contract": metadata.to_json()})
    onnx.save(made, file)
    try:
        return publish(repository, metadata, file, OPTIONS, {})
    finally:
        file.unlink()
