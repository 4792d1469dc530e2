"""What each part of the fine-tuning recipe brings: test accuracy with and without it, over seeds.

    python benchmarks/recipes.py --data data/photos      (train/, val/, test/, a folder per class)

Every row is `train.py` with the shipped recipe and one change, on small pictures and for few
epochs, so that all rows with three seeds take an hour on two cores; each run has one thread. What
pays in a short training on small pictures need not pay in a long one on large pictures.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, stdev

ROOT = Path(__file__).parents[1]
CHANGES = {
    "as it is": [],
    "nothing frozen": ["model.task.network.frozen=0"],
    "the same steps for all layers": ["model.task.layer_decay=1.0"],
    "no average of the weights": ["model.task.ema_decay=null"],
    "no label smoothing": ["model.task.label_smoothing=0.0"],
    "mixup and cutmix": ["model.task.mixup=0.2", "model.task.cutmix=1.0"],
    "TrivialAugment": ["data.augment.policy=trivial"],
    "RandAugment": ["data.augment.policy=rand"],
}


def run(script: str, settings: list[str], folder: Path) -> float:
    """The test accuracy that a script says."""
    command = [sys.executable, str(ROOT / f"{script}.py"), *settings, f"paths.runs={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    found = re.search(r"^test/accuracy +([\d.]+)", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        raise SystemExit(done.stderr)
    return float(found[1])


def main() -> None:
    """Train every row with every seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=96, help="side in pixels")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at the same time")
    given = parser.parse_args()
    base = ["data=folder", "data.name=photos", f"data.root={given.data.absolute()}", "logger=none"]
    base += ["model=efficientnet_lite0", f"model.image_size={given.size}"]
    base += [f"trainer.max_epochs={given.epochs}"]

    def row(name: str, seed: int, folder: Path) -> tuple[float, float]:
        """Of the pictures, and of them with their mirror images."""
        own = folder / f"{name}_{seed}"
        settings = [*base, *CHANGES[name], f"seed={seed}", f"paths.weights={own}"]
        accuracy = run("train", settings, own)
        if name != "as it is":
            return accuracy, accuracy
        return accuracy, run("infer", [*settings, "tta=true"], own)

    seeds = range(given.seeds)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        waiting = {
            name: [pool.submit(row, name, seed, Path(folder)) for seed in seeds] for name in CHANGES
        }
        base_mean = 0.0
        for name, runs in waiting.items():
            results = [one.result() for one in runs]
            rows = {name: [accuracy for accuracy, _ in results]}
            if name == "as it is":
                base_mean = fmean(rows[name])
                rows["tested with mirror images (tta=true)"] = [mirrored for _, mirrored in results]
            for title, values in rows.items():
                spread = stdev(values) if len(values) > 1 else 0.0
                seen = " ".join(f"{value:.4f}" for value in values)
                mean = fmean(values)
                print(
                    f"{title:38} {mean:.4f} +- {spread:.4f}  {mean - base_mean:+.4f}  ({seen})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
