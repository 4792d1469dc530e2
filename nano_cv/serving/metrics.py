"""Triton's figures: fetched from its own endpoint, read, and shown as a table."""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from rich.table import Table

from nano_cv.serving.triton import LOOPBACK

FETCH_SECONDS = 2
LINE = re.compile(r'^nv_inference_(\w+)\{model="([^"]+)".*\} (\S+)$', re.MULTILINE)

Figures = dict[str, Counter[str]]  # of each model: the counters, their prefix left out


async def fetch(port: int) -> str:
    """The text of Triton's endpoint; nothing while Triton is away."""
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(
                    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                await reader.readuntil(b"\r\n\r\n")
                return (await reader.read(-1)).decode()
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return ""


def read(text: str) -> Figures:
    """The counters of each model, its versions together."""
    figures: Figures = {}
    for name, model, value in LINE.findall(text):
        figures.setdefault(model, Counter())[name] += float(value)  # type: ignore[assignment]
    return figures


class State(NamedTuple):
    """What the supervisor knows of a model."""

    state: str
    reason: str
    restarts: int


def own_metrics(states: Mapping[str, State], server_restarts: int) -> str:
    """What Triton cannot tell, in Prometheus' format."""
    lines = [
        "# HELP nano_cv_model_up Whether the model answers",
        "# TYPE nano_cv_model_up gauge",
        *(
            f'nano_cv_model_up{{model="{name}"}} {int(state.state == "ready")}'
            for name, state in states.items()
        ),
        "# HELP nano_cv_model_restarts_total How often the model's processes were started again",
        "# TYPE nano_cv_model_restarts_total counter",
        *(
            f'nano_cv_model_restarts_total{{model="{name}"}} {state.restarts}'
            for name, state in states.items()
        ),
        "# HELP nano_cv_server_restarts_total How often tritonserver was started again",
        "# TYPE nano_cv_server_restarts_total counter",
        f"nano_cv_server_restarts_total {server_restarts}",
    ]
    return "\n".join(lines) + "\n"


def table(
    states: Mapping[str, State], before: Figures, now: Figures, seconds: float, title: str
) -> Table:
    """One line a model; the rates and times are of the `seconds` between two readings."""
    shown = Table(title=title, title_justify="left", header_style="bold")
    shown.add_column("model")
    shown.add_column("state")
    names = ("inferences", "failed", "a second", "batch", "queue ms", "compute ms", "restarts")
    for name in names:
        shown.add_column(name, justify="right")
    shown.add_column("reason", style="dim", max_width=60)
    for name, (state, reason, restarts) in states.items():
        total = now.get(name, Counter())
        # Triton counts from zero when a model is loaded again.
        step = {key: max(total[key] - before.get(name, Counter())[key], 0) for key in total}
        requests = step.get("request_success", 0)
        runs = step.get("exec_count", 0)

        def mean(key: str, step: dict[str, int] = step, requests: int = requests) -> str:
            return f"{step.get(key, 0) / requests / 1000:.2f}" if requests else "-"

        colour = "green" if state == "ready" else "red"
        shown.add_row(
            name,
            f"[{colour}]{state}[/]",
            f"{total['count']:.0f}",
            f"{total['request_failure']:.0f}",
            f"{step.get('count', 0) / seconds:.0f}" if seconds else "-",
            f"{step.get('count', 0) / runs:.1f}" if runs else "-",
            mean("queue_duration_us"),
            mean("compute_infer_duration_us"),
            f"{restarts}",
            reason,
        )
    return shown
