"""The engine of exported models in this process: onnxruntime, or OpenVINO for bfloat16.

Shapes: B pictures.
"""

import logging
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nano_cv.errors import UserError, one_line
from nano_cv.evaluation import bfloat16
from nano_cv.evaluation.engines import Arrays, Engine, processor_flags
from nano_cv.metadata import KEY, Metadata

log = logging.getLogger(__name__)


class ForeignError(UserError):
    """The file is a model of another program: it holds no metadata."""


class Onnx(Engine):
    """An exported file in onnxruntime, on the processor.

    With `threads=0` onnxruntime uses all cores. `entries` are session config entries; by default
    those that the `precision` of the file needs: `float32`, `int8`, `bf16` or `int8_bf16`.

    Raises:
        UserError: the file is missing, damaged, or not written by export_model.py.
    """

    def __init__(self, path: Path, threads: int = 0, entries: Mapping[str, str] | None = None):
        import onnxruntime

        if path.suffix == ".safetensors":
            raise UserError(f"{path}: weights for engine=torch; engine=onnx takes a model.onnx")

        def load(entries: Mapping[str, str]) -> Any:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            for key, value in entries.items():
                if key != bfloat16.HINT:
                    options.add_session_config_entry(key, value)
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        try:
            self.session = load(entries or {})
        except Exception as error:  # damaged files raise errors of many kinds
            raise UserError(f"{path}: onnxruntime cannot load it ({one_line(error)})") from error
        facts = self.session.get_modelmeta().custom_metadata_map
        self.precision = facts.get("precision", "float32")
        try:
            self.metadata = Metadata.from_json(facts.get(KEY, ""))
        except ValueError as error:
            raise ForeignError(
                f"{path}: holds no metadata; export_model.py did not write this file"
            ) from error
        self.source = {"model": path}
        # Measured at export, by name, such as `val/accuracy/float32`.
        self.figures = {key: float(text) for key, text in sorted(facts.items()) if "/" in key}
        if entries is None and "bf16" in self.precision:
            try:
                entries = bfloat16_entries()
                if bfloat16.FASTMATH in entries:  # only now is the precision known
                    self.session = load(entries)
            except UserError as error:
                log.warning("%s: computed in float32 and not in bfloat16: %s", path, error)
        # OpenVINO only runs the model: onnxruntime has read its metadata, and explains bad files.
        self.runner: Any = self.session
        if bfloat16.HINT in (entries or {}):
            try:
                self.runner = bfloat16.Session(path, threads, bfloat16=True)
            except Exception as error:  # of OpenVINO, which may also not be installed
                raise UserError(f"{path}: OpenVINO cannot load it ({one_line(error)})") from error

    def predict(self, inputs: Arrays, options: Any = None) -> dict[str, NDArray[Any]]:
        """See `Engine`; `options` are those of a run of onnxruntime, by which it can be stopped."""
        names = [output.name for output in self.session.get_outputs()]
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        return dict(zip(names, self.runner.run(names, arrays, options), strict=True))


def bfloat16_entries() -> dict[str, str]:
    """The session entries for bfloat16; raises `UserError` if this processor lacks it."""
    if platform.machine() in ("aarch64", "arm64"):
        if platform.system() == "Linux" and "bf16" in processor_flags():
            return {bfloat16.FASTMATH: "1"}
        raise UserError("this Arm processor or its system does not compute in bfloat16")
    if why := bfloat16.why_not():
        raise UserError(why)
    return {bfloat16.HINT: "YES"}
