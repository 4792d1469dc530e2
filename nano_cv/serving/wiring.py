"""From `configs/serve.yaml` to the supervisor's settings, and what a person sees of it."""

import asyncio
import logging
import sys
import time
from collections import deque
from dataclasses import fields
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console, Group
from rich.live import Live

from nano_cv.serving import metrics
from nano_cv.serving.supervisor import Settings, Supervisor
from nano_cv.serving.triton import LOOPBACK

log = logging.getLogger(__name__)

WATCH_SECONDS = 1
EVENTS = 8  # lines of the log under the table


def settings_of(config: DictConfig) -> Settings:
    """The keys that the supervisor knows by the same name, and the folders."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    own = {item.name: values[item.name] for item in fields(Settings) if item.name in values}
    return Settings(
        repository=Path(config.paths.models),
        folder=Path(HydraConfig.get().runtime.output_dir),
        # Named after the port, which only one can have: what a killed run left is found again.
        area=Path(config.paths.cache, f"serve_{config.grpc_port}"),
        **own,
    )


async def show(supervisor: Supervisor) -> None:
    """Say where all answers; show the table, if that was asked for."""
    ports = {key.removesuffix("_port"): port for key, port in supervisor.settings.ports.items()}
    lines = [f"gRPC     {LOOPBACK}:{ports['grpc']}"]
    if ports["http"]:
        lines.append(f"HTTP     http://{LOOPBACK}:{ports['http']}")
    lines += [
        f"metrics  http://{LOOPBACK}:{ports['metrics']}/metrics",
        f"health   http://{LOOPBACK}:{ports['health']}/health",
        f"log      {supervisor.server.log}",
    ]
    ready = [name for name, state in supervisor.states().items() if state.state == "ready"]
    log.info("serving %s; stop with Ctrl-C\n  %s", ", ".join(ready), "\n  ".join(lines))
    if supervisor.settings.watch:
        await _watch(supervisor)


class _Last(logging.Handler):
    """Keeps the last lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=EVENTS)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{time.strftime('%H:%M:%S')} {record.getMessage()}")


async def _watch(supervisor: Supervisor) -> None:
    """A table of the models once a second, in place of the log on the screen."""
    root, last = logging.getLogger(), _Last()
    screens = [item for item in root.handlers if getattr(item, "stream", None) is sys.stdout]
    for handler in screens:
        root.removeHandler(handler)
    root.addHandler(last)
    before: metrics.Figures = {}
    then = time.monotonic()
    try:
        with Live(console=Console(), auto_refresh=False) as live:
            while True:
                now = metrics.read(await metrics.fetch(supervisor.triton_metrics))
                seconds, then = time.monotonic() - then, time.monotonic()
                title = f"Triton on {LOOPBACK}:{supervisor.settings.grpc_port}: {supervisor.state}"
                states = supervisor.states()
                shown = metrics.table(states, before, now, seconds if before else 0, title)
                live.update(Group(shown, *last.lines), refresh=True)
                before = now
                await asyncio.sleep(WATCH_SECONDS)
    finally:
        root.removeHandler(last)
        for handler in screens:
            root.addHandler(handler)
