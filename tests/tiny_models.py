"""A model of a few hundred bytes for each task, exported as `export_model.py` would; no torch.

Their answers follow from the picture in ways that a test can foretell. Shapes: B pictures, S = 32.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nano_cv.export.repository import publish
from nano_cv.metadata import Metadata

S = 32
CLASSES = ["red", "green", "blue"]
BOXES = np.array([[[8, 8, 16, 24], [0, 0, 4, 4]]], np.float32)  # in pixels of the square
OPTIONS = {
    **{"max_batch_size": 4, "instances": 1, "threads": 1, "max_queue_delay_us": 0},
    **{"max_queue_size": None, "queue_timeout_us": None, "decode_instances": 1},
    **{"max_picture_bytes": 10**7, "max_picture_pixels": 10**6},
}


def images_of(size: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("IMAGES", TensorProto.UINT8, ["B", 3, size, size])


IMAGES = images_of(S)


def constant(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def classifier() -> tuple[list, list, list, list]:
    """The likeliest class is the strongest of the three colours."""
    nodes = [
        helper.make_node("Cast", ["IMAGES"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["CLASS_PROBS"], axis=1),
    ]
    out = [helper.make_tensor_value_info("CLASS_PROBS", TensorProto.FLOAT, ["B", 3])]
    return nodes, [IMAGES], out, [constant("scale", np.array(0.05, np.float32))]


def tagger() -> tuple[list, list, list, list]:
    """The labels are the colours that are more than half as strong as they can be."""
    nodes = [
        helper.make_node("Cast", ["IMAGES"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Div", ["mean", "most"], ["CLASS_PROBS"]),
        helper.make_node("GreaterOrEqual", ["CLASS_PROBS", "half"], ["LABEL_SET"]),
    ]
    out = [
        helper.make_tensor_value_info("CLASS_PROBS", TensorProto.FLOAT, ["B", 3]),
        helper.make_tensor_value_info("LABEL_SET", TensorProto.BOOL, ["B", 3]),
    ]
    levels = {"most": 255, "half": 0.5}
    constants = [constant(name, np.array(one, np.float32)) for name, one in levels.items()]
    return nodes, [IMAGES], out, constants


def detector() -> tuple[list, list, list, list]:
    """Always the two `BOXES`, of the scores 0.9 and 0.1 and the classes blue and red."""
    parts = {
        "BOXES": BOXES,
        "SCORES": np.array([[0.9, 0.1]], np.float32),
        "LABELS": np.array([[2, 0]], np.int64),
    }
    nodes = [
        helper.make_node("Shape", ["IMAGES"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["b"], axis=0),
    ]
    outputs, constants = [], [constant("zero", np.array([0]))]
    for name, array in parts.items():
        rest = np.array(array.shape[1:])
        constants += [constant(f"{name}_one", array), constant(f"{name}_rest", rest)]
        nodes += [
            helper.make_node("Concat", ["b", f"{name}_rest"], [f"{name}_shape"], axis=0),
            helper.make_node("Expand", [f"{name}_one", f"{name}_shape"], [name]),
        ]
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        outputs.append(helper.make_tensor_value_info(name, kind, ["B", *array.shape[1:]]))
    return nodes, [IMAGES], outputs, constants


def segmenter() -> tuple[list, list, list, list]:
    """Class 1 where red is above 127, else class 0."""
    nodes = [
        helper.make_node("Gather", ["IMAGES", "zero"], ["red"], axis=1),
        helper.make_node("Cast", ["red"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Greater", ["x", "half"], ["above"]),
        helper.make_node("Cast", ["above"], ["MASK"], to=TensorProto.UINT8),
    ]
    out = [helper.make_tensor_value_info("MASK", TensorProto.UINT8, ["B", S, S])]
    constants = [constant("zero", np.array(0)), constant("half", np.array(127, np.float32))]
    return nodes, [IMAGES], out, constants


def generator() -> tuple[list, list, list, list]:
    """Grey noise, brighter the higher the class."""
    nodes = [
        helper.make_node("Cast", ["LABELS"], ["label"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["label", "step"], ["brighter"]),
        helper.make_node("Reshape", ["brighter", "shape"], ["level"]),
        helper.make_node("Add", ["NOISE", "level"], ["sum"]),
        helper.make_node("Mul", ["sum", "step"], ["levels"]),
        helper.make_node("Clip", ["levels", "least", "most"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["IMAGES"], to=TensorProto.UINT8),
    ]
    inputs = [
        helper.make_tensor_value_info("NOISE", TensorProto.FLOAT, ["B", 3, S, S]),
        helper.make_tensor_value_info("LABELS", TensorProto.INT64, ["B", 1]),
    ]
    constants = [
        constant("step", np.array(8, np.float32)),
        constant("least", np.array(0, np.float32)),
        constant("most", np.array(255, np.float32)),
        constant("shape", np.array([-1, 1, 1, 1])),
    ]
    return nodes, inputs, [IMAGES], constants


TASKS = {
    "classification": ("colours", classifier),
    "tagging": ("tags", tagger),
    "detection": ("boxes", detector),
    "segmentation": ("masks", segmenter),
    "generation": ("noise", generator),
}


def publish_all(repository: Path, folder: Path) -> Path:
    """A model of each task, such as `colours_tiny` and `tags_tiny`, and their decoders."""
    for task in TASKS:
        publish_one(repository, folder, task)
    return repository


def publish_one(
    repository: Path, folder: Path, task: str, model: str = "", data: str = "tiny", size: int = S
) -> None:
    """One more version of the model of a task; of another name or size if that is given."""
    usual, make = TASKS[task]
    model = model or usual
    least = [0.5] * 3 if task == "tagging" else []
    metadata = Metadata(task, model, data, CLASSES, size, [0.5] * 3, [0.5] * 3, thresholds=least)
    nodes, inputs, outputs, constants = make()
    inputs = [images_of(size) if one.name == "IMAGES" else one for one in inputs]
    graph = helper.make_graph(nodes, model, inputs, outputs, constants)
    opset = [helper.make_opsetid("", 17)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=8)
    helper.set_model_props(made, {"contract": metadata.to_json()})
    file = folder / f"{model}.onnx"
    onnx.save(made, file)
    publish(repository, metadata, file, OPTIONS, {})
