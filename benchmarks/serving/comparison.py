"""What settings are compared with: onnxruntime in this process, and the design to beat."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.load import Call, Window, grpc_call, http_call, measure
from benchmarks.serving.settings import Setting
from nano_cv.data import images, store
from nano_cv.data.imagined import Imagined
from nano_cv.data.store import File
from nano_cv.evaluation.exported import Onnx
from nano_cv.metadata import JPEG, Metadata

Measure = Callable[[], Window]


class Bench:
    """Makes the rows of a benchmark; a window of each is `seconds` at `concurrency`.

    Args:
        channel: to the server.
        metadata: what the model promises.
        picture: a file to send; all rows send the same one. None for a model that takes none.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        metadata: Metadata,
        picture: File | None,
        concurrency: int,
        seconds: float,
    ) -> None:
        self.channel = channel
        size = metadata.image_size
        self.content = images.read(picture) if picture else b""
        if picture:
            image = images.load(self.content, size, fit=metadata.fit)
            self.inputs: dict[str, NDArray[Any]] = {"IMAGES": image.transpose(2, 0, 1)[None].copy()}
        else:
            self.inputs = Imagined([0], metadata.classes, size, seed=0).inputs([0])
        self.concurrency, self.seconds = concurrency, seconds

    def settings(self, grid: Sequence[Setting]) -> dict[Setting, Measure]:
        """A row for each setting: one picture a request."""
        return {setting: self._pixels_to(setting.model) for setting in grid}

    def compared(
        self,
        best: Setting,
        default: Setting,
        float32: Path,
        prototype: bool,
        served: tuple[int, grpc.Channel] | None,
        ten_lines: int | None,
    ) -> dict[str, Measure]:
        """The rows that are given as shares of the first.

        Args:
            best: the setting that has won.
            default: the setting as exported.
            float32: the file for the ceiling.
            prototype: also the design to beat.
            served: the port of a front door that has the best setting, and the gRPC behind it.
            ten_lines: port of `ten_lines.py`, likewise.
        """
        rows = {
            "float32 onnxruntime in process, by itself": self._in_process(float32),
            f"default: {default.words}": self._pixels_to(default.model),
            f"best: {best.words}": self._pixels_to(best.model),
        }
        if served:
            door, channel = served
            encoded = {"ENCODED": np.array([[self.content]], object)}
            rows["best, from JPEG"] = self._load(grpc_call(channel, best.model + JPEG, encoded))
            path = f"/models/{best.model}/predict"
            rows["best, from JPEG by REST"] = self._load(http_call(door, path, self.content))
        if ten_lines:
            pixels = self.inputs["IMAGES"].tobytes()
            rows["ten lines of FastAPI, binary pixels"] = self._load(
                http_call(ten_lines, "/pixels", pixels)
            )
            rows["ten lines of FastAPI, from JPEG"] = self._load(
                http_call(ten_lines, "/jpeg", self.content)
            )
        if prototype:
            rows["prototype, binary pixels"] = self._prototype()
        return rows

    def _pixels_to(self, model: str) -> Measure:
        return self._load(grpc_call(self.channel, model, self.inputs))

    def _in_process(self, file: Path) -> Measure:
        """Bare onnxruntime with its defaults, one call after the other: no server, no copies."""
        call = partial(Onnx(file).predict, self.inputs)
        return lambda: measure(call, clients=1, seconds=self.seconds)

    def _prototype(self) -> Measure:
        pixels = np.asarray(images.decode(self.content))[None]
        return self._load(grpc_call(self.channel, "prototype", {"PIXELS": pixels}))

    def _load(self, call: Call) -> Measure:
        return lambda: measure(call, self.concurrency, self.seconds)


def pick(files: Sequence[File]) -> File:
    """The picture of middle size, in bytes: neither the kindest nor the hardest to decode."""
    return sorted(files, key=store.size)[len(files) // 2]
