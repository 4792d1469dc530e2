"""Chooses the precision in which training is fastest on this machine."""

import copy
import logging
import time
from collections.abc import Callable

import torch

from nano_cv.data.datamodule import Batch
from nano_cv.evaluation.engines import find_device, processor_flags
from nano_cv.tasks.task import Task

log = logging.getLogger(__name__)
NATIVE_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 and Arm names in /proc/cpuinfo


def choose_precision(
    accelerator: str, task: Task, first_batch: Callable[[], Batch], before: str, processes: int
) -> str:
    """The precision in which this task trains fastest on this machine.

    On processors with bfloat16 a few steps are timed: torch's backward pass of depthwise
    convolutions is so slow in bfloat16 that some networks are faster in float32. A resumed run
    keeps the precision that it had `before`. Several `processes` time nothing, as times differ.
    """
    best = best_precision(accelerator)
    if find_device(accelerator).type == "cuda":
        return best
    if before in (best, "32-true"):
        return before
    if best != "bf16-mixed" or processes > 1:
        return best
    batch = first_batch()
    seconds = {name: _time_steps(task, batch, name == "bf16-mixed") for name in (best, "32-true")}
    log.info(
        "a step takes %.0f ms in bfloat16 and %.0f ms in float32",
        *(1000 * value for value in seconds.values()),
    )
    return min(seconds, key=lambda name: seconds[name])


def _time_steps(task: Task, batch: Batch, bfloat16: bool) -> float:
    """Seconds of the fastest of three training steps of a copy, without the optimiser."""
    trained, seconds = copy.deepcopy(task).train(), []
    with torch.random.fork_rng(devices=[]):
        for _ in range(3):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                losses = trained.training_losses(*batch)
            losses["loss"].backward()
            seconds.append(time.perf_counter() - start)
    return min(seconds)


def best_precision(accelerator: str) -> str:
    """bfloat16 if the hardware computes in it, for emulation is slow; else float16 or float32."""
    device = find_device(accelerator).type
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    native = device == "cpu" and processor_flags() & NATIVE_BFLOAT16
    return "bf16-mixed" if native else "32-true"
