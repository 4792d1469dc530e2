"""Exports a task's `predict` to an ONNX file, with the task's metadata inside.

The graph holds all that was evaluated: normalisation, network and post-processing. So a client
sends uint8 pixels and reads answers. The batch size is dynamic, all other sizes are fixed.
"""

import contextlib
import importlib.util
import inspect
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from nano_cv.errors import UserError, one_line
from nano_cv.files import replacing
from nano_cv.metadata import KEY, Metadata
from nano_cv.tasks.task import Task

# NVIDIA's container 24.10 (onnxruntime 1.19) reads up to 20; torch 2.2 can write up to 17.
OPSET, OPSET_TORCHSCRIPT = 20, 17


class _Predict(nn.Module):
    """Module whose `forward` is the task's `predict`, because torch exports a `forward`."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.task.predict(*inputs).values())


def export(task: Task, file: Path) -> None:
    """Write `task.predict` and the task's metadata as an ONNX file, and check the file.

    Raises:
        UserError: torch cannot express this network as ONNX; the message holds torch's error.
    """
    task.eval()
    inputs = task.example_inputs(2)
    with torch.inference_mode():
        outputs = list(task.predict(*inputs.values()))
    names: dict[str, Any] = {"input_names": list(inputs), "output_names": outputs}
    if importlib.util.find_spec("onnxscript") and not task.traced:
        batch = torch.export.Dim("batch")
        names |= {"dynamo": True, "opset_version": OPSET, "external_data": False}
        names |= {"dynamic_shapes": (tuple({0: batch} for _ in inputs),)}
    else:  # torch 2.2, the last for Intel Macs, can only export by tracing
        names |= {"opset_version": OPSET_TORCHSCRIPT}
        if "dynamo" in inspect.signature(torch.onnx.export).parameters:
            names |= {"dynamo": False}
        names |= {"dynamic_axes": {name: {0: "batch"} for name in [*inputs, *outputs]}}
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            # `eval` also for the wrapper, for torch 2.2 restores the wrapper's mode everywhere.
            torch.onnx.export(_Predict(task).eval(), tuple(inputs.values()), str(file), **names)
        onnx.checker.check_model(str(file), full_check=True)
    except Exception as error:  # the exporter fails in as many ways as there are operators
        raise UserError(f"{task.metadata.name}: cannot be exported: {one_line(error)}") from error
    annotate(file, task.metadata, {})


def annotate(file: Path, metadata: Metadata, facts: Mapping[str, Any]) -> None:
    """Replace the metadata of an ONNX file by the task's metadata and measured `facts`."""
    model = onnx.load(file)
    texts = {key: str(value) for key, value in facts.items()}
    onnx.helper.set_model_props(model, {KEY: metadata.to_json(), **texts})
    with replacing(file) as temporary:
        onnx.save(model, temporary)
