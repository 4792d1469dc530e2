"""What is known of one model that is being served."""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import psutil
from tritonclient.grpc.service_pb2 import ModelInferRequest

from nano_cv.serving.repository import Signature

log = logging.getLogger(__name__)


@dataclass
class Backoff:
    """Longer and longer waits between attempts, short ones again after a quiet time."""

    first: float = 0.5
    most: float = 30
    quiet: float = 60
    last: float = field(default=-1e9, init=False)
    wait: float = field(default=0, init=False)

    def next(self) -> float:
        """Seconds to wait before the attempt that is to be made now."""
        now = time.monotonic()
        if now - self.last > self.quiet + self.wait:
            self.wait = 0
        due, self.wait = self.wait, min(max(self.wait * 2, self.first), self.most)
        self.last = now
        return due


@dataclass
class Model:
    """What we know of one model."""

    name: str
    state: str = "loading"  # ready, failing, restarting, refused
    reason: str = ""
    seen: Signature = frozenset()
    refused: dict[str, str] = field(default_factory=dict)  # version: why
    versions: list[str] = field(default_factory=list)
    stubs: set[psutil.Process] = field(default_factory=set)
    last_good: float | None = None
    restarts: int = 0
    backoff: Backoff = field(default_factory=Backoff)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ensemble: bool = False
    request: ModelInferRequest | None = None  # what it is asked to see whether it answers

    def shown(self) -> dict[str, Any]:
        """For the health page."""
        good = self.last_good and time.localtime(self.last_good)
        return {
            "state": self.state,
            "reason": self.reason,
            "versions": self.versions,
            "refused": self.refused,
            "last_good_answer": good and time.strftime("%Y-%m-%dT%H:%M:%S%z", good),
            "restarts": self.restarts,
        }

    def is_now(self, state: str, reason: str = "") -> None:
        """Log a change of state."""
        if (state, reason) != (self.state, self.reason):
            log.log(
                logging.INFO if state == "ready" else logging.WARNING,
                "%s: %s%s", self.name, state, f": {reason}" if reason else "",
            )  # fmt: skip
        self.state, self.reason = state, reason
