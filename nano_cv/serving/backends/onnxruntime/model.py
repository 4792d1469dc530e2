"""Triton's backends `onnxruntime` and `openvino` in Python, for any ONNX model.

The wheel's Triton has no C++ backend for ONNX. This file stands in for it: it reads the same
`config.pbtxt` (docs: triton-inference-server/onnxruntime_backend, README) and the same file,
`<version>/model.onnx`. It runs inside Triton's stub process; the models that take encoded pictures
(`nano_cv/export/decoder/model.py`) build upon it.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as utils
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from nano_cv.evaluation import bfloat16


class TritonPythonModel:
    """Instance of a model, which Triton creates and calls."""

    # Errors of the client.
    refusals = (failures.InvalidArgument, UnicodeDecodeError, bfloat16.ShapeError)

    def initialize(self, args):
        """Load the model, which `export/validate.py` has compared with its config before.

        Raises:
            TritonModelException: the file cannot be loaded.
        """
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        file = folder / (config.get("default_model_filename") or "model.onnx")
        try:
            self.session = onnxruntime.InferenceSession(
                str(file), _options(config), providers=["CPUExecutionProvider"]
            )
            self.strings = {arg.name for arg in self.session.get_inputs() if "string" in arg.type}
            hinted = bfloat16.HINT in _parameters(config)
            if config["backend"] == "openvino" or hinted:
                self.session = bfloat16.Session(file, _threads(config), hinted)
        except Exception as error:  # whatever damage does to a model file
            raise utils.TritonModelException(f"{file}: {error}") from error
        self.batched = config["max_batch_size"] > 0
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests):
        """Answer the requests; requests of the same shape run as a single batch."""
        responses = [None] * len(requests)
        groups = {}
        for position, request in enumerate(requests):
            try:
                tensors = [self._read(request, name) for name in self.inputs]
                key = tuple(tensor.shape[1:] for tensor in tensors) if self.batched else position
                groups.setdefault(key, []).append((position, tensors))
            except Exception as error:
                responses[position] = self._failure(error)
        for members in groups.values():
            for position, outputs in self._run_group(members):
                responses[position] = self._respond(requests[position], outputs)
        return responses

    def _read(self, request, name):
        sent = utils.get_input_tensor_by_name(request, name)
        if sent is None:
            raise ValueError(f"input '{name}' is missing; optional inputs are not served here")
        tensor = sent.as_numpy()  # Triton's memory, a view
        if name in self.strings:
            return np.array([text.decode() for text in tensor.flat], object).reshape(tensor.shape)
        return tensor

    def _run_group(self, members):
        """Run a batch; return pairs of position and outputs, with errors only for bad requests."""
        try:
            if len(members) == 1:
                return [(members[0][0], self._run(members[0][1]))]
            # The only copy of the pixels, needed because Triton stores each request apart.
            inputs = zip(*(tensors for _, tensors in members), strict=True)
            outputs = self._run([np.concatenate(parts) for parts in inputs])
            ends = np.cumsum([tensors[0].shape[0] for _, tensors in members])[:-1]
            parts = zip(*(np.split(output, ends) for output in outputs), strict=True)
            return [(position, part) for (position, _), part in zip(members, parts, strict=True)]
        except Exception as error:
            if len(members) == 1:
                return [(members[0][0], error)]
            return [pair for member in members for pair in self._run_group([member])]

    def _run(self, tensors):
        outputs = self.session.run(self.outputs, dict(zip(self.inputs, tensors, strict=True)))
        if self.batched:
            for name, output in zip(self.outputs, outputs, strict=True):
                if output.shape[:1] != tensors[0].shape[:1]:  # no way to tell whose rows these are
                    raise ValueError(
                        f"'{name}': shape {output.shape} for a batch of {tensors[0].shape[0]}; "
                        "serve this model with max_batch_size: 0"
                    )
        return outputs

    def _failure(self, error):
        bad = isinstance(error, self.refusals)
        code = utils.TritonError.INVALID_ARG if bad else utils.TritonError.INTERNAL
        return utils.InferenceResponse(error=utils.TritonError(str(error), code))

    def _respond(self, request, outputs):
        if isinstance(outputs, Exception):
            return self._failure(outputs)
        wanted = set(request.requested_output_names())
        return utils.InferenceResponse(
            [
                utils.Tensor(name, np.ascontiguousarray(output))
                for name, output in zip(self.outputs, outputs, strict=True)
                if name in wanted
            ]
        )


def _parameters(config):
    return {key: item["string_value"] for key, item in config.get("parameters", {}).items()}


def _threads(config):
    """Return the threads per instance, from the keys of either backend; 0 means all cores."""
    settings = _parameters(config)
    return int(settings.get("INFERENCE_NUM_THREADS") or settings.get("intra_op_thread_count") or 0)


def _options(config):
    """Return the session options of `config.pbtxt`, whose keys are those of the C++ backend.

    Its other keys, such as `execution_mode`, change no answer, and are passed over.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads(config)
    for key, value in _parameters(config).items():
        if key.startswith(("session.", "mlas.")):  # options of onnxruntime itself
            options.add_session_config_entry(key, value)
    return options
