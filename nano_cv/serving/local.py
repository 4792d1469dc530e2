"""Backend that runs the models in this process, where there is no Triton, such as on a Mac."""

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from omegaconf import DictConfig

from nano_cv.errors import UserError
from nano_cv.evaluation.engines import Arrays
from nano_cv.evaluation.exported import Onnx
from nano_cv.metadata import JPEG
from nano_cv.serving.backend import Backend, GoneError, Model, predict_here, stopped_if_cancelled
from nano_cv.serving.checking import answer_once
from nano_cv.serving.repository import Signature, versions_of

log = logging.getLogger(__name__)


class Local(Backend):
    """Backend that runs the newest version of each model in onnxruntime, without JPEG twins."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.several = asyncio.Semaphore(os.cpu_count() or 1)

    async def start(self) -> None:
        """See `Backend`."""
        self.repository.wanted()  # raises if there is none
        await self._take(self.repository.signatures())

    async def watch(self) -> None:
        """See `Backend`."""
        await self.repository.watch(self.config.poll_seconds, self._take, self._drop)

    async def infer(self, name: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Backend`."""
        async with self.several:
            if name not in self.engines:
                raise GoneError("removed a moment ago")
            with stopped_if_cancelled() as options:
                engine = self.engines[name]
                return await asyncio.to_thread(predict_here, engine, inputs, options)

    def _drop(self, name: str) -> None:
        self.models.pop(name, None)
        self.engines.pop(name, None)

    async def _take(self, signatures: Mapping[str, Signature]) -> None:
        for name, signature in signatures.items():
            self.repository.taken[name] = signature
            if not name.endswith(JPEG):
                await self._load(name)

    async def _load(self, name: str) -> None:
        """Load the newest version that is sound; if there is none, keep the loaded version."""
        folder = self.repository.source / name
        files = [folder / version / "model.onnx" for version in reversed(versions_of(folder))]
        if not any(file.exists() for file in files):
            return
        model = self.models.setdefault(name, Model(name))
        model.refused = {}
        for file in files:
            try:
                if file.is_fifo():  # opening it would wait for ever
                    raise UserError(f"{file}: a pipe; put the file itself there")
                engine = await asyncio.to_thread(Onnx, file)
                await asyncio.to_thread(answer_once, engine)
            except UserError as error:
                model.refused[file.parent.name] = str(error)
                log.warning("%s: %s set aside", name, error)
                continue
            self.engines[name], model.figures = engine, engine.figures
            model.versions, model.metadata = [file.parent.name], engine.metadata
            model.is_now("ready")
            return
        if name not in self.engines:
            model.is_now("refused", "; ".join(model.refused.values()))
