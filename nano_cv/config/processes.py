"""Which of several processes of one training this is; known before torch is loaded.

torchrun, SLURM and Lightning say so in the environment.
"""

import os
import tempfile
from pathlib import Path

RANKS = ("RANK", "SLURM_PROCID")  # set by torchrun; by srun


def process_rank() -> int:
    """The number of this process among those that train one model together; 0 if it is alone."""
    for name in RANKS:
        # An interactive shell of SLURM has a number too, and is alone.
        alone = name.startswith("SLURM") and os.environ.get("SLURM_NTASKS", "1") == "1"
        if name in os.environ and not alone:
            return int(os.environ[name])
    if "LOCAL_RANK" not in os.environ:  # which Lightning sets in the processes that it starts
        return 0
    return int(os.environ.get("NODE_RANK", 0)) or int(os.environ["LOCAL_RANK"])


def is_first_process() -> bool:
    """Whether this is the process that writes, draws and logs."""
    return process_rank() == 0


def slurm_folder() -> str | None:
    """Name of the folder of a run that srun starts: the same when SLURM starts the job again."""
    job, step = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID", "")
    # Larger numbers are those of the batch script and of interactive shells.
    return f"slurm_{job}_{step}" if job and step.isdecimal() and int(step) < 2**31 else None


def run_in(folder: Path) -> str:
    """The setting of Hydra with which a run writes into this folder."""
    quoted = str(folder).replace("'", r"\'")
    return f"hydra.run.dir='{quoted}'"


def quiet_settings(given: list[str]) -> list[str]:
    """Settings of Hydra with which another process than the first leaves no folder and no log."""
    added = ["hydra.output_subdir=null", "hydra.job_logging.root.level=ERROR"]
    added += ["hydra.job_logging.root.handlers=[console]", "~hydra.job_logging.handlers.file"]
    if not any(one.startswith("hydra.run.dir=") for one in given):
        folder = Path(tempfile.gettempdir(), f"nano_cv_process_{process_rank()}")
        added.append(run_in(folder))
    return added
