"""The models of the repository in this process: where there is no Triton, such as on a Mac."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from nano_cv.errors import UserError, one_line
from nano_cv.metadata import Metadata
from nano_cv.serving import repository
from nano_cv.serving.backend import Arrays, Backend, Model
from nano_cv.serving.connection import RefusedError

log = logging.getLogger(__name__)


class Local(Backend):
    """Runs the newest version of each model in onnxruntime; decoders are not needed here.

    Args:
        source: the model repository.
        wanted: names of the models to serve; None for all.
        poll_seconds: between two looks at the repository.
    """

    def __init__(self, source: Path, wanted: list[str] | None, poll_seconds: float) -> None:
        super().__init__()
        self.source, self.wanted, self.poll_seconds = source, wanted, poll_seconds
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}
        self.seen: dict[str, repository.Signature] = {}
        self.several = asyncio.Semaphore(os.cpu_count() or 1)

    async def start(self) -> None:
        """See `Backend`.

        Raises:
            UserError: there is no model that can be loaded.
        """
        for name in repository.wanted_models(self.source, self.wanted):
            await self._load(name)
        if not self.sessions:
            reasons = [f"{model.name}: {model.reason}" for model in self.models.values()]
            raise UserError("\n".join(["no model can be served", *reasons]))
        self.state = "serving"

    async def watch(self) -> None:
        """See `Backend`."""
        while True:
            await asyncio.sleep(self.poll_seconds)
            try:
                await self._take_changes()
            except OSError as error:  # of this machine, such as too many open files
                log.warning("the repository is looked at again: %s", one_line(error))

    async def _take_changes(self) -> None:
        names = {folder.name for folder in repository.folders(self.source)}
        for name in self.models.keys() - names:
            del self.models[name]
            self.sessions.pop(name, None)
            log.warning("%s: removed from the repository", name)
        for name in names & (set(self.wanted) if self.wanted else names):
            if self.seen.get(name) != repository.signature(self.source / name):
                await self._load(name)

    async def stop(self) -> None:
        """See `Backend`."""

    async def infer(self, name: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """See `Backend`."""
        session = self.sessions[name]
        names = [output.name for output in session.get_outputs()]
        given = {key: np.ascontiguousarray(array) for key, array in inputs.items()}
        async with self.several:
            try:
                outputs = await asyncio.to_thread(session.run, names, given)
            except Exception as error:  # onnxruntime has a dozen kinds
                raise RefusedError(one_line(error)) from error
        return dict(zip(names, outputs, strict=True))

    async def _load(self, name: str) -> None:
        """Load the newest version that can be loaded; the one that is loaded stays otherwise."""
        self.seen[name] = repository.signature(self.source / name)
        versions = repository.versions_of(self.source / name)
        files = [self.source / name / version / "model.onnx" for version in reversed(versions)]
        files = [file for file in files if file.exists()]
        if not files:  # a decoder or an ensemble
            return
        model = self.models.setdefault(name, Model(name))
        model.refused = {}
        for file in files:
            try:
                session = await asyncio.to_thread(
                    onnxruntime.InferenceSession, file, providers=["CPUExecutionProvider"]
                )
                text = session.get_modelmeta().custom_metadata_map.get("contract", "")
                model.metadata = Metadata.from_json(text)
            except Exception as error:  # whatever damage does to a model file
                model.refused[file.parent.name] = one_line(error)
                log.warning("%s: %s set aside: %s", name, file, one_line(error))
                continue
            self.sessions[name], model.versions = session, [file.parent.name]
            model.is_now("ready")
            return
        if name not in self.sessions:
            model.is_now("refused", "; ".join(model.refused.values()))
