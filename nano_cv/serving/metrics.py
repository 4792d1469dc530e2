"""Metrics for Prometheus: Triton's counters, read over gRPC, and counters of the front door."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from json import dumps
from typing import Any

from nano_cv.serving.backend import Backend

TEXT = "text/plain; version=0.0.4; charset=utf-8"  # the content type that Prometheus expects

# The names are those of Triton's own /metrics; durations are in microseconds.
COUNTERS: dict[str, Callable[[Any], float]] = {
    "request_success": lambda stats: stats.inference_stats.success.count,
    "request_failure": lambda stats: stats.inference_stats.fail.count,
    "count": lambda stats: stats.inference_count,
    "exec_count": lambda stats: stats.execution_count,
    "request_duration_us": lambda stats: stats.inference_stats.success.ns // 1000,
    "queue_duration_us": lambda stats: stats.inference_stats.queue.ns // 1000,
    "compute_input_duration_us": lambda stats: stats.inference_stats.compute_input.ns // 1000,
    "compute_infer_duration_us": lambda stats: stats.inference_stats.compute_infer.ns // 1000,
    "compute_output_duration_us": lambda stats: stats.inference_stats.compute_output.ns // 1000,
}


async def render(backend: Backend, answers: Mapping[tuple[str, int], int]) -> str:
    """Return the text of `/metrics`; `answers` counts the door's by model and HTTP status."""
    figures = await backend.figures()
    lines: list[str] = []
    for name, read in COUNTERS.items():
        rows = [(f'model={dumps(row.name)},version="{row.version}"', read(row)) for row in figures]
        if rows:
            lines += _metric(f"nv_inference_{name}", "counter", "From Triton", rows)
    models = backend.models.items()
    ready = [(f"model={dumps(name)}", int(model.state == "ready")) for name, model in models]
    lines += _metric("nano_cv_model_up", "gauge", "Whether the model answers", ready)
    name, restarts = "nano_cv_server_restarts_total", [("", backend.restarts)]
    lines += _metric(name, "counter", "How often Triton was started again", restarts)
    counts = [
        (f'model={dumps(name)},status="{status}"', count)
        for (name, status), count in sorted(answers.items())
    ]
    lines += _metric("nano_cv_answers_total", "counter", "Answers of the front door", counts)
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, about: str, rows: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
    for labels, value in rows:
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"
