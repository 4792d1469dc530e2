"""Runs exported models in bfloat16 by OpenVINO, on x86 processors that compute in bfloat16.

onnxruntime has such kernels for Arm only. Triton's Python backend uses this file too, so it imports
nothing that a server does not need.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The parameter in `config.pbtxt` by which Triton's own OpenVINO backend is told to use bfloat16.
HINT = "HINT_BF16"
FASTMATH = "mlas.enable_gemm_fastmath_arm64_bfloat16"  # the session entry of onnxruntime on Arm
MISSING = "OpenVINO is not installed; type: poetry install --extras openvino"


def why_not() -> str:
    """The reason why OpenVINO does not compute in bfloat16 here; empty if it does."""
    try:
        from openvino import Core
    except ImportError:
        return MISSING
    if "BF16" not in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "this processor does not compute in bfloat16 (it has no avx512_bf16 or amx_bf16)"
    return ""


class ShapeError(ValueError):
    """An input has another shape than the model takes."""


class Session:
    """An ONNX model in OpenVINO, used like a session of onnxruntime. Several threads may use it.

    With `threads=0` there is one per core. With `bfloat16` it computes in bfloat16, if the
    processor can; else OpenVINO chooses.

    Raises:
        RuntimeError: OpenVINO is not installed, or cannot read the model.
    """

    def __init__(self, file: Path, threads: int, bfloat16: bool) -> None:
        try:
            from openvino import Core
        except ImportError as error:
            raise RuntimeError(MISSING) from error
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # each of several instances would take the first cores
        }
        if bfloat16:
            settings["INFERENCE_PRECISION_HINT"] = "bf16"
        self.model = Core().compile_model(file, "CPU", settings)

    def run(
        self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]], options: Any = None
    ) -> list[Any]:
        """Compute the named outputs from the named inputs, each `[B, ...]`; raises `ShapeError`.

        `options`, which onnxruntime takes, are not used here.
        """
        for name, array in inputs.items():
            taken = self.model.input(name).partial_shape
            if not taken.compatible(type(taken)(list(array.shape))):
                raise ShapeError(f"'{name}': shape {list(array.shape)}; {taken} is needed")
        answer = self.model.infer_new_request(dict(inputs))
        return [np.array(answer[name]) for name in outputs]  # copies: the request's memory ends
