"""Backend that runs the models in this process, where there is no Triton, such as on a Mac."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from omegaconf import DictConfig

from nano_cv.errors import UserError, one_line
from nano_cv.evaluation.exported import Onnx
from nano_cv.metadata import JPEG
from nano_cv.serving import repository
from nano_cv.serving.backend import Arrays, Backend, Model, predict_here

log = logging.getLogger(__name__)


class Local(Backend):
    """Backend that runs the newest version of each model in onnxruntime, without JPEG twins.

    Args:
        config: the configuration of `configs/serve.yaml`.
    """

    def __init__(self, config: DictConfig) -> None:
        super().__init__()
        self.config, self.source = config, Path(config.paths.models)
        self.seen: dict[str, repository.Signature] = {}
        self.several = asyncio.Semaphore(os.cpu_count() or 1)

    async def start(self) -> None:
        """See `Backend`."""
        for name in repository.wanted_models(self.source, self.config.models):
            await self._load(name)
        self.check_any()
        self.state = "serving"

    async def watch(self) -> None:
        """See `Backend`."""
        while True:
            await asyncio.sleep(self.config.poll_seconds)
            try:
                await self._take_changes()
            except OSError as error:  # of this machine, such as too many open files
                log.warning("the repository is looked at again: %s", one_line(error))

    async def _take_changes(self) -> None:
        names = {folder.name for folder in repository.folders(self.source)}
        for name in self.models.keys() - names:
            del self.models[name]
            self.engines.pop(name, None)
            log.warning("%s: removed from the repository", name)
        for name in names & set(self.config.models or names):
            if self.seen.get(name) != repository.signature(self.source / name):
                await self._load(name)

    async def stop(self) -> None:
        """See `Backend`."""

    async def infer(self, name: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Backend`."""
        async with self.several:
            return await asyncio.to_thread(predict_here, self.engines[name], inputs)

    async def _load(self, name: str) -> None:
        """Load the newest version that is sound; if there is none, keep the loaded version."""
        self.seen[name] = repository.signature(self.source / name)
        versions = repository.versions_of(self.source / name)
        files = [self.source / name / version / "model.onnx" for version in reversed(versions)]
        if name.endswith(JPEG) or not any(file.exists() for file in files):
            return
        model = self.models.setdefault(name, Model(name))
        model.refused = {}
        for file in files:
            try:
                engine = await asyncio.to_thread(Onnx, file)
            except UserError as error:
                model.refused[file.parent.name] = str(error)
                log.warning("%s: %s set aside", name, error)
                continue
            self.engines[name], model.metadata = engine, engine.metadata
            model.versions = [file.parent.name]
            model.is_now("ready")
            return
        if name not in self.engines:
            model.is_now("refused", "; ".join(model.refused.values()))
