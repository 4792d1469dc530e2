"""Triton model that decodes images as training does, and runs the network in the same process.

`export_model.py` copies this file beside the network, into `<model>_<data>_from_jpeg/<version>/`.
"""

import json

import numpy as np
import triton_python_backend_utils as utils

from nano_cv.data import images
from nano_cv.serving.backends.onnxruntime import model as backend


class TritonPythonModel(backend.TritonPythonModel):
    """Model from `ENCODED` BYTES `[B, 1]` (JPEG, PNG, WebP, ...) to the outputs of `model.onnx`."""

    refusals = (*backend.TritonPythonModel.refusals, images.ImageError)

    def initialize(self, args):
        """Read size and limits from the config, load the network, and run it once."""
        config = json.loads(args["model_config"])
        parameters = {key: item["string_value"] for key, item in config["parameters"].items()}
        self.size, self.fit = json.loads(parameters["image_size"]), parameters["fit"]
        self.max_bytes = int(parameters["max_picture_bytes"])
        self.max_pixels = int(parameters["max_picture_pixels"])
        network = {"input": [{"name": "IMAGES"}], "default_model_filename": "model.onnx"}
        super().initialize(args | {"model_config": json.dumps(config | network)})
        self._run([np.zeros((1, 3, *self.size), np.uint8)])  # so that it plans its memory now

    def _read(self, request, name):
        """Return the pixels of a request, uint8 `[B, 3, H, W]`."""
        encoded = utils.get_input_tensor_by_name(request, "ENCODED").as_numpy().ravel()
        decoded = [self._load(content) for content in encoded]
        bad = [f"{n}: {error}" for n, error in enumerate(decoded) if isinstance(error, Exception)]
        if bad:
            text = bad[0].partition(": ")[2] if len(decoded) == 1 else "; ".join(bad)
            raise images.ImageError(text)
        return np.ascontiguousarray(np.stack(decoded).transpose(0, 3, 1, 2))

    def _load(self, content):
        try:
            if len(content) > self.max_bytes:
                raise images.ImageError(
                    f"picture: {len(content):,} bytes; at most {self.max_bytes:,} are allowed"
                )
            return images.load(content, self.size, max_pixels=self.max_pixels, fit=self.fit)
        except images.ImageError as error:
            return error
