"""What a user would write in ten lines: `MODEL=model.onnx uvicorn ten_lines:app --workers 2`."""

import io
import os
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from PIL import Image

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1  # a worker has one core
session = onnxruntime.InferenceSession(os.environ["MODEL"], options)
height, width = session.get_inputs()[0].shape[2:]
app = FastAPI()


def answer(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Outputs by name for pixels `[1, 3, H, W]`."""
    outputs = session.run(None, {"IMAGES": pixels})
    named = zip(session.get_outputs(), outputs, strict=True)
    return {one.name: array[0].tolist() for one, array in named}


@app.post("/pixels")
async def pixels(request: Request) -> dict[str, Any]:
    """The body is uint8 `[1, 3, H, W]`."""
    return answer(np.frombuffer(await request.body(), np.uint8).reshape(1, 3, height, width))


@app.post("/jpeg")
async def jpeg(request: Request) -> dict[str, Any]:
    """The body is a picture file."""
    image = Image.open(io.BytesIO(await request.body())).convert("RGB").resize((width, height))
    return answer(np.asarray(image).transpose(2, 0, 1)[None])
