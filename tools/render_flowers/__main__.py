"""Command line: render the whole set, or a few plants of it."""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from difflib import get_close_matches
from pathlib import Path

from tools.render_flowers.dataset import all_names, write_lists
from tools.render_flowers.plant import render, write


class RenderError(Exception):
    """What was asked for cannot be done; the message says why."""


def main() -> None:
    """Parse the arguments, render, and turn a user's mistake into one message."""
    parser = argparse.ArgumentParser(prog="python -m tools.render_flowers", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("data/flowers"), help="a new folder")
    parser.add_argument("--only", nargs="+", metavar="PLANT", help="such as daisy/plant003")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    arguments = parser.parse_args()
    try:
        render_set(arguments.output, arguments.only, arguments.workers)
    except RenderError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")


def render_set(output: Path, only: list[str] | None = None, workers: int | None = None) -> None:
    """Render into the folder `output`, which appears whole or not at all.

    Raises:
        RenderError: `output` is in the way, a name is unknown, or `workers` is not positive.
    """
    known = all_names()
    names = list(dict.fromkeys(only or known))
    unknown = [name for name in names if name not in known]
    if unknown:
        close = get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; {known[0]} to {known[-1]} exist"
        raise RenderError(f"no such plant: {unknown[0]}{hint}")
    if workers is not None and workers < 1:
        raise RenderError(f"--workers {workers}: at least 1 is needed")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RenderError(f"{output} exists and is not an empty folder; name another with --output")

    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        # Ctrl-C is for this process alone to answer: the workers would print tracebacks.
        quiet = (signal.SIGINT, signal.SIG_IGN)
        with ProcessPoolExecutor(workers, initializer=signal.signal, initargs=quiet) as pool:
            jobs = pool.map(_render_one, names, [temporary] * len(names))
            try:
                for _ in _counted(jobs, len(names)):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if only is None:
            write_lists(temporary)
        temporary.replace(output)
    except OSError as error:
        raise RenderError(f"cannot write {output}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _render_one(name: str, folder: Path) -> None:
    write(render(name), folder)


def _counted(jobs: Iterable[None], total: int) -> Iterator[None]:
    """Pass `jobs` on, with a line on standard error that says how many and how long still."""
    start, end = time.monotonic(), "\r" if sys.stderr.isatty() else "\n"
    for done, job in enumerate(jobs, start=1):
        if sys.stderr.isatty() or done % 100 == 0 or done == total:
            left = round((time.monotonic() - start) / done * (total - done))
            last = "\n" if done == total else end
            text = f"{done}/{total} plants, {left // 60} min {left % 60:02} s left "
            print(text, end=last, file=sys.stderr, flush=True)
        yield job


if __name__ == "__main__":
    main()
