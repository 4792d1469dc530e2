"""Runs a script from its command line: checks the settings, lets Hydra compose, calls the function.

A user's mistake is answered with one line, exit status 1 and no traceback.
"""

import errno
import logging
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from nano_cv.config.checks import check
from nano_cv.config.options import CONFIGS, accept_plus, add_settings
from nano_cv.config.processes import is_first_process, process_rank, quiet_settings
from nano_cv.errors import DISK_FULL, UserError, one_line, printable, say

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # SLURM sends SIGUSR1 before it ends a job
log = logging.getLogger(__name__)
Script = Callable[[DictConfig], float | None]  # a sweep searches for the largest float


def main(config_name: str) -> Callable[[Script], Callable[[], None]]:
    """Turn a function into a script: `@main("train")` passes it the composed `train.yaml`."""

    def decorate(function: Script) -> Callable[[], None]:
        @wraps(function)
        def job(config: DictConfig) -> float | None:
            try:
                with _interrupting():  # also here, as a sweep's jobs may run in other processes
                    return function(config)
            except (UserError, OSError, hydra.errors.InstantiationException) as error:
                sweeps = config_name == "train" and HydraConfig.get().mode == RunMode.MULTIRUN
                if sweeps and isinstance(error, UserError):  # the summary counts such runs
                    log.error("error: %s; this run has failed, and its sweep goes on", error)
                    return -math.inf
                _remove_empty_run()
                stop(error)
            except KeyboardInterrupt:
                for number in (signal.SIGINT, *ENDING_SIGNALS):  # from here on they end at once
                    signal.signal(number, signal.SIG_DFL)
                if is_first_process():
                    print(f"interrupted{resumable()}", file=sys.stderr)
                _remove_empty_run()
                sys.exit(128 + signal.SIGINT)

        @wraps(function)
        def script() -> None:
            for name in ("stdout", "stderr"):
                if getattr(sys, name) is None:  # closed, as by `2>&-`
                    setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
            logging.raiseExceptions = False  # no tracebacks where nobody reads, as in `| head`
            if "WORLD_SIZE" not in os.environ:  # these numbers are left over from another run
                for name in ("RANK", "LOCAL_RANK"):
                    os.environ.pop(name, None)
            if not os.environ.get("MLFLOW_TRACKING_URI"):  # as compose files leave it
                os.environ.pop("MLFLOW_TRACKING_URI", None)
            try:
                sys.argv[1:] = accept_plus(sys.argv[1:])
                if {"-h", "--help"} & set(sys.argv[1:]):
                    from nano_cv.config.help import format_help

                    say(format_help(config_name, sys.argv[1:]))
                    return
                sys.argv[1:] = add_settings(sys.argv[1:], check(config_name, sys.argv[1:]))
                # Launchers start Python in the folder of the call, and it must find this package.
                paths = (str(CONFIGS.parent), os.environ.get("PYTHONPATH"))
                os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
                # gRPC, once it is loaded, otherwise prints that another process was started.
                os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
                os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
                os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
                if not is_first_process():
                    sys.argv[1:] = add_settings(sys.argv[1:], quiet_settings(sys.argv[1:]))
                whole = hydra.main(
                    version_base="1.3", config_path=str(CONFIGS), config_name=config_name
                )
                with _interrupting():
                    whole(job)()
            except (UserError, OSError) as error:
                if isinstance(error, UserError) and not is_first_process():
                    sys.exit(1)  # the first process says the same
                stop(error)
            except KeyboardInterrupt:  # before the job, or in a sweep
                if is_first_process():
                    print(f"interrupted{resumable()}", file=sys.stderr)
                sys.exit(128 + signal.SIGINT)

        return script

    return decorate


@contextmanager
def _interrupting() -> Iterator[None]:
    """Let the signals that end a job interrupt the block as Ctrl-C does.

    So files are closed, and the run's record says how the run ended.
    """
    before = {
        number: signal.signal(number, signal.default_int_handler) for number in ENDING_SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _remove_empty_run() -> None:
    """Remove the folder of a run that has failed before it wrote any file.

    Hydra's own files in the folder, the settings and a log, say no more than the error message.
    """
    config = HydraConfig.get()
    folder, own_log = Path(config.runtime.output_dir), f"{config.job.name}.log"
    if not is_first_process() or config.mode == RunMode.MULTIRUN or not folder.is_dir():
        return
    if {path.name for path in folder.iterdir()} <= {".hydra", own_log}:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in folder.parents[:2]:  # the folders of this model and data, and of this script
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def stop(error: Exception) -> NoReturn:
    """Print an error in a single line and end the process with status 1."""
    if isinstance(error, OSError):
        if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
            stop(UserError(error.args[0][0][2]))  # source, target and reason for each file
        if error.errno is None:  # a defect of the code, not a full disk or a closed folder
            raise error
        full = error.errno in DISK_FULL
        missing = error.errno == errno.ENOENT and not os.path.lexists(str(error.filename))
        where = (not missing and error.filename2) or error.filename  # filename2: target of a copy
        if full and not where and HydraConfig.initialized():
            where = HydraConfig.get().runtime.output_dir  # most likely a checkpoint was written
        message = f"{where}: " if where else ""
        message += os.strerror(error.errno) + (f"; free some space{resumable()}" if full else "")
    elif isinstance(error, hydra.errors.InstantiationException):
        if not isinstance(error.__cause__, TypeError | ValueError | ImportError | None):
            raise error
        cause, key = error.__cause__ or error, str(error).rpartition("full_key: ")[2]
        message = f"{key}: {one_line(cause)}"
    else:  # an error of a worker process has the whole traceback, with the message at its end
        message = str(error).rpartition(f"{type(error).__name__}: ")[2].rstrip()
    logging.getLogger("nano_cv").debug("stopped", exc_info=error)
    who = "" if is_first_process() else f" (process {process_rank()})"
    print(printable(f"error{who}: {message}"), file=sys.stderr)
    sys.exit(1)


def resumable() -> str:
    """Return a hint how to resume this run if it has a checkpoint, or where a sweep's runs lie."""
    if not HydraConfig.initialized():
        return ""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return f"; the runs so far lie in {HydraConfig.get().sweep.dir}"
    checkpoint = Path(HydraConfig.get().runtime.output_dir, "checkpoints", "last.ckpt")
    return "; to go on, add resume=true" if checkpoint.exists() else ""
