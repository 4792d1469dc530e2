"""Encoded pictures to pixels inside Triton, by the same function as in training.

`export_model.py` copies this file to `model_repository/decode_<size>/1/model.py`.
"""

import json

import numpy as np
import triton_python_backend_utils as utils

from nano_cv.data import images


class TritonPythonModel:
    """`ENCODED` BYTES `[B, 1]` (JPEG, PNG, WebP, ...) to `IMAGES` uint8 `[B, 3, H, W]`."""

    def initialize(self, args):
        """Read size and limits from the config."""
        config = json.loads(args["model_config"])
        given = {key: item["string_value"] for key, item in config["parameters"].items()}
        self.size, self.fit = config["output"][0]["dims"][-2:], given["fit"]
        self.max_bytes = int(given["max_picture_bytes"])
        self.max_pixels = int(given["max_picture_pixels"])

    def execute(self, requests):
        """Decode the pictures of each request; a bad one fails only its own request."""
        encoded = [utils.get_input_tensor_by_name(request, "ENCODED") for request in requests]
        return [_respond([self._load(one) for one in some.as_numpy().ravel()]) for some in encoded]

    def _load(self, content):
        try:
            if len(content) > self.max_bytes:
                raise images.ImageError(
                    f"picture: {len(content):,} bytes; at most {self.max_bytes:,} are allowed"
                )
            return images.load(content, self.size, max_pixels=self.max_pixels, fit=self.fit)
        except images.ImageError as error:
            return error


def _respond(decoded):
    bad = [f"{n}: {one}" for n, one in enumerate(decoded) if isinstance(one, Exception)]
    if bad:
        text = bad[0].partition(": ")[2] if len(decoded) == 1 else "; ".join(bad)
        return utils.InferenceResponse(error=utils.TritonError(text, utils.TritonError.INVALID_ARG))
    pixels = np.ascontiguousarray(np.stack(decoded).transpose(0, 3, 1, 2))
    return utils.InferenceResponse([utils.Tensor("IMAGES", pixels)])
