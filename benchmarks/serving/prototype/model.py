"""The design to beat: pixels of any size in, resized and normalised in Python, float32 out.

Served by `benchmark.py` in front of the float32 network, as a first attempt at serving often is.
"""

import json

import numpy as np
import triton_python_backend_utils as utils
from PIL import Image


class TritonPythonModel:
    """`PIXELS` uint8 `[B, H, W, 3]` to the network's normalised float32 input."""

    def initialize(self, args):
        """Read mean and deviation from the metadata."""
        config = json.loads(args["model_config"])
        self.output = config["output"][0]
        metadata = json.loads(config["parameters"]["contract"]["string_value"])
        self.mean = np.array(metadata["mean"], np.float32)
        self.std = np.array(metadata["std"], np.float32)

    def execute(self, requests):
        """One request after the other, one picture after the other."""
        height, width = map(int, self.output["dims"][-2:])
        responses = []
        for request in requests:
            pictures = utils.get_input_tensor_by_name(request, "PIXELS").as_numpy()
            prepared = []
            for pixels in pictures:
                resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
                normal = (np.asarray(resized, np.float32) / 255 - self.mean) / self.std
                prepared.append(normal.transpose(2, 0, 1))
            tensor = utils.Tensor(self.output["name"], np.stack(prepared).astype(np.float32))
            responses.append(utils.InferenceResponse([tensor]))
        return responses
