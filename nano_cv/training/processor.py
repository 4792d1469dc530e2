"""Settings that make training on this processor fast, found out and not configured.

Training a small network on a processor is limited by memory: each step takes and returns hundreds
of megabytes, and glibc hands every large block back to the kernel, which then clears each page
again. Keeping the memory about doubled the speed of LeNet (`benchmarks/training.py`).
"""

import ctypes
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is loaded after `keep_memory`
    from nano_cv.data.datamodule import Batch
    from nano_cv.tasks.task import Task

log = logging.getLogger(__name__)
NATIVE_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 and Arm names in /proc/cpuinfo


def keep_memory() -> None:
    """Let the C library reuse large blocks, in huge pages where the kernel offers them.

    To be called before torch is imported. Does nothing but on Linux with glibc.
    """
    if sys.platform != "linux":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch when it is loaded
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # numbers from <malloc.h>
        libc.mallopt(mmap_max, 0)  # no mappings of their own for large blocks
        libc.mallopt(trim_threshold, -1)  # and never give the heap's end back
        libc.mallopt(top_pad, 256 * 1024 * 1024)


def choose_precision(accelerator: str, task: "Task", first_batch: Callable[[], "Batch"]) -> str:
    """The precision that trains this task fastest here.

    On a processor with bfloat16 some networks are slower in it: torch's backward pass of depthwise
    convolutions is. So a few steps are timed there.
    """
    best = best_precision(accelerator)
    if best != "bf16-mixed" or _uses_cuda(accelerator):
        return best
    batch = first_batch()
    seconds = {name: _time_steps(task, batch, name == "bf16-mixed") for name in (best, "32-true")}
    log.info(
        "a step takes %.0f ms in bfloat16 and %.0f ms in float32",
        *(1000 * value for value in seconds.values()),
    )
    return min(seconds, key=lambda name: seconds[name])


def _time_steps(task: "Task", batch: "Batch", bfloat16: bool) -> float:
    """Seconds of the fastest of a few training steps, without the optimiser, on a copy."""
    import copy

    import torch

    trained, found = copy.deepcopy(task).train(), []
    with torch.random.fork_rng(devices=[]):
        for _ in range(3):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                losses = trained.training_losses(*batch)
            losses["loss"].backward()
            found.append(time.perf_counter() - start)
    return min(found)


def _uses_cuda(accelerator: str) -> bool:
    """Whether a GPU of NVIDIA trains, and not the processor."""
    import torch

    return accelerator in ("auto", "gpu") and torch.cuda.is_available()


def best_precision(accelerator: str) -> str:
    """bfloat16 where the arithmetic is native, else float32: emulated it is slower, not faster."""
    import torch

    from nano_cv.evaluation.engines import processor_flags

    if _uses_cuda(accelerator):
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    if accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        return "32-true"
    return "bf16-mixed" if processor_flags() & NATIVE_BFLOAT16 else "32-true"
