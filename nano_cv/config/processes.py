"""Sets how a process keeps memory, and tells the processes of a training apart. No torch.

torchrun, SLURM and Lightning number the processes by environment variables.
"""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

from nano_cv.config.options import as_setting
from nano_cv.errors import UserError

# Variables of torchrun and srun: the number of this process, and how many there are.
RANKS = {"RANK": "WORLD_SIZE", "SLURM_PROCID": "SLURM_NTASKS"}


def keep_memory() -> None:
    """Let glibc on Linux keep large blocks, in huge pages if the kernel has them.

    Must be called before torch is imported. Each step of a small network allocates and frees
    hundreds of megabytes. glibc gives every large block back to the kernel, which clears each page
    before the next use. Keeping the memory about doubled the speed of LeNet
    (`benchmarks/training.py`).
    """
    if sys.platform != "linux":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch when it is loaded
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # numbers from <malloc.h>
        libc.mallopt(mmap_max, 0)  # large blocks come from the heap
        libc.mallopt(trim_threshold, -1)  # the end of the heap is never given back
        libc.mallopt(top_pad, 256 * 1024 * 1024)


def process_rank() -> int:
    """Return the number of this process among all processes of a training; 0 if it is alone."""
    for rank, processes in RANKS.items():
        # A program in an interactive shell of SLURM has a number too, although it is alone.
        if rank in os.environ and os.environ.get(processes, "1") != "1":
            return int(os.environ[rank])
    if "LOCAL_RANK" not in os.environ:  # Lightning sets it in the processes that it starts
        return 0
    return int(os.environ.get("NODE_RANK", 0)) or int(os.environ["LOCAL_RANK"])


def is_first_process() -> bool:
    """Return whether this process is number 0, which alone writes, draws and logs."""
    return process_rank() == 0


def slurm_folder() -> str | None:
    """Return the folder name of a run that srun starts, the same after a restart of the job."""
    job, step = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID", "")
    # Batch scripts and interactive shells have larger step numbers.
    return f"slurm_{job}_{step}" if job and step.isdecimal() and int(step) < 2**31 else None


def check_started(devices: int, nodes: int) -> None:
    """Refuse a training of other processes than those that torchrun or srun has started.

    Otherwise each process would train alone, and all but the first for nothing. The message says
    what to type.
    """
    started, each = 1, None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        started, each = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    elif slurm_folder() and (started := int(os.environ.get("SLURM_NTASKS", 1))) > 1:
        each = started // int(os.environ.get("SLURM_NNODES", nodes))
    if each and (devices, devices * nodes) != (each, started):
        raise UserError(
            f"{started} processes were started, {each} in each machine, and the settings are for "
            f"{devices * nodes}; type trainer.devices={each} trainer.num_nodes={started // each}"
        )


def run_in(folder: Path) -> str:
    """Return the setting of Hydra with which a run writes into `folder`."""
    return as_setting("hydra.run.dir", str(folder))


def quiet_settings(overrides: list[str]) -> list[str]:
    """Return Hydra settings for all processes but the first, to leave no folder and no log."""
    added = ["hydra.output_subdir=null", "hydra.job_logging.root.level=ERROR"]
    added += ["hydra.job_logging.root.handlers=[console]", "~hydra.job_logging.handlers.file"]
    if not any(override.startswith("hydra.run.dir=") for override in overrides):
        added.append(run_in(Path(tempfile.gettempdir())))  # Hydra makes it if it is not there
    return added
