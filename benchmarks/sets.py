"""The shipped recipes on real sets, with no option but data and model: one row per set and model.

    python benchmarks/sets.py --data FOLDER --jobs 2 --seeds 3 --only boards grocery81

FOLDER holds the sets by their names below, in the layouts that nano-cv reads. Each training has one
thread; its processor time is that of the whole command, evaluation and drawings included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Task(NamedTuple):
    """A set with a model, and the figure that counts."""

    folder: str
    data: str
    model: str
    figures: tuple[str, ...]


TASKS = [
    Task("flowers5", "folder", "efficientnet_lite0", ("test/accuracy",)),
    Task("grocery81", "folder", "efficientnet_lite0", ("test/accuracy", "test/f1")),
    Task("fork_scissors/by_class", "folder", "efficientnet_lite0", ("test/accuracy",)),
    Task("fork_scissors", "coco", "centernet", ("test/mAP50",)),
    Task("fork_scissors", "coco", "centernet_lite0", ("test/mAP50",)),
    Task("boards", "coco", "centernet", ("test/mAP50",)),
    Task("boards", "coco", "centernet_lite0", ("test/mAP50",)),
    Task("bccd", "coco", "centernet", ("test/mAP50",)),
    Task("bccd", "coco", "centernet_lite0", ("test/mAP50",)),
    Task("dsb2018_nuclei", "folder_masks", "unet", ("test/IoU/nucleus",)),
    Task("dsb2018_nuclei", "folder_masks", "unet_lite0", ("test/IoU/nucleus",)),
    Task("roads", "folder_masks", "unet", ("test/mIoU", "test/IoU/crack", "test/IoU/pothole")),
    Task(
        "roads", "folder_masks", "unet_lite0", ("test/mIoU", "test/IoU/crack", "test/IoU/pothole")
    ),
]


def train(task: Task, data: Path, seed: int, folder: Path) -> dict[str, float]:
    """Metrics of one training, and the `minutes` of processor time that it took."""
    name = task.folder.replace("/", "_")
    runs = folder / f"{name}_{task.model}_{seed}"
    command = [sys.executable, str(ROOT / "train.py"), f"data={task.data}", f"model={task.model}"]
    command += [f"data.root={data / task.folder}", f"data.name={name}", f"seed={seed}"]
    command += [f"paths.{key}={runs / key}" for key in ("runs", "weights")]
    command += ["logger=none", f"paths.cache={folder / 'cache'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=errors, stderr=errors, env=environment, text=True
        )
        _, status, used = os.wait4(process.pid, 0)
        errors.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command)}\n{errors.read()[-2000:]}")
    (file,) = runs.glob("runs/train/*/*/metrics.json")
    metrics = json.loads(file.read_text())
    metrics["minutes"] = (used.ru_utime + used.ru_stime) / 60
    print(
        f"{task.folder} {task.model} seed {seed}: "
        + ", ".join(f"{figure} {metrics.get(figure) or 0:.4f}" for figure in task.figures)
        + f", {metrics['minutes']:.1f} CPU minutes, {(time.monotonic() - start) / 60:.1f} minutes",
        flush=True,
    )
    return metrics


def main() -> None:
    """Train all rows with every seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--only", nargs="*", default=[], help="words that a row must have one of")
    given = parser.parse_args()
    rows = [
        task
        for task in TASKS
        if not given.only
        or {task.folder, task.model, f"{task.folder}:{task.model}"} & {*given.only}
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        jobs = [
            (task, given.data.absolute(), seed, Path(folder))
            for task in rows
            for seed in range(given.seeds)
        ]
        found = list(pool.map(lambda job: train(*job), jobs))
    print("\n| set | model | figure | mean | seeds | CPU minutes |\n|---|---|---|--:|---|--:|")
    for number, task in enumerate(rows):
        runs = found[number * given.seeds : (number + 1) * given.seeds]
        for figure in task.figures:
            values = [run.get(figure, 0.0) for run in runs]
            shown = ", ".join(f"{value:.3f}" for value in values)
            minutes = fmean(run["minutes"] for run in runs)
            print(
                f"| {task.folder} | {task.model} | {figure.removeprefix('test/')} | "
                f"{fmean(values):.3f} | {shown} | {minutes:.0f} |"
            )


if __name__ == "__main__":
    main()
