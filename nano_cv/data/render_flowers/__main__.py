"""Command line: render the whole set, or a few plants of it."""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from nano_cv.data.render_flowers.dataset import all_names, write_lists
from nano_cv.data.render_flowers.plant import render, write
from nano_cv.errors import UserError, listing, nearest


def main() -> None:
    """Parse the arguments, render, and turn a user's mistake into one message."""
    parser = argparse.ArgumentParser(
        prog="python -m nano_cv.data.render_flowers", description=__doc__
    )
    parser.add_argument("--output", type=Path, default=Path("data/flowers"), help="a new folder")
    parser.add_argument("--only", nargs="+", metavar="PLANT", help="such as daisy/plant003")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    arguments = parser.parse_args()
    try:
        render_set(arguments.output, arguments.only, arguments.workers)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")


def render_set(output: Path, only: list[str] | None = None, workers: int | None = None) -> None:
    """Render into the folder `output`, which appears whole or not at all.

    Raises:
        UserError: `output` is in the way, a name is unknown, or `workers` is not positive.
    """
    known = all_names()
    names = list(dict.fromkeys(only or known))
    unknown = [name for name in names if name not in known]
    if unknown:
        hint = nearest(unknown[0], known)
        raise UserError(f"no such plant: {listing(unknown)}{hint}; {known[0]} to {known[-1]} exist")
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: at least 1 is needed")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is not an empty folder; name another with --output")

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
        raise UserError(f"cannot write {output}: {error.strerror}") from error
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
