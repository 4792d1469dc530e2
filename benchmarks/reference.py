"""One recipe, the same pictures and network: nano-cv beside torchvision's own training script.

    git clone --depth 1 https://github.com/pytorch/vision
    python benchmarks/reference.py --script vision/references/classification --data data/photos

`data/photos` holds `train/`, `val/` and `test/` with a folder per class in each. Both train from
random weights on the processor, each run in a process of its own, in turn (A B C A B C ...), so
that a machine which slows down slows all. What is equal is in `commands`. What is not:

- Theirs decodes pictures in each epoch (`-j 0`, `-j 2`: worker processes); ours takes them from the
  cache, which the first run fills: see the seconds before its first epoch.
- Theirs crops 8 to 100 % of a picture's area and changes the ratio of its sides; ours zooms, on
  average as much beyond the size of the validation, and shifts, in pictures that are kept a quarter
  larger; what lies outside is mirrored, and the sides stay as they are.
- Theirs validates the middle of a picture, ours the whole, stretched to a square.
- Theirs changes the learning rate once an epoch, ours at each step.
- Theirs draws a new random start in each run, ours counts its seeds from 0.
- Theirs keeps no checkpoints here, ours writes the best and the last as always; that counts in the
  minutes, not in the pictures per second.
- Ours leaves out the last batch of an epoch where it is not full. Only what is trained is counted.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

# What their script and our Clock print, and when: as an epoch starts, when it has been trained.
START = re.compile(r"^Start training|^Test:  Acc@1|^clock: start")
TRAINED = re.compile(r"^Epoch: \[\d+\] Total time|^clock: trained")
ACCURACY = re.compile(r"^Test:  Acc@1 ([\d.]+)|val/accuracy ([\d.]+)")


class Run(NamedTuple):
    """One training: seconds before its first epoch, of each epoch, of all, and accuracies in %."""

    before: float
    epochs: list[float]
    whole: float
    accuracies: list[float]


def commands(options: argparse.Namespace, seed: int, folder: Path) -> dict[str, list[str]]:
    """The command line of each kind of run."""
    theirs = {
        "device": "cpu",
        "data-path": options.data,
        "model": options.model,
        "epochs": options.epochs,
        "batch-size": options.batch,
        "opt": "adamw",
        "lr": options.lr,
        "weight-decay": options.weight_decay,
        "norm-weight-decay": 0,
        "bias-weight-decay": 0,
        "clip-grad-norm": 1,
        "lr-scheduler": "cosineannealinglr",
        "lr-warmup-epochs": 1,
        "lr-warmup-method": "linear",
        "lr-warmup-decay": 0.5,  # of the whole first epoch; ours rises within it, with that mean
        "label-smoothing": 0.1,
        "train-crop-size": options.size,
        "val-crop-size": options.size,
        "val-resize-size": options.size * 256 // 224,  # their ratio
        "output-dir": "",
    }
    ours = {
        "data": "folder",
        "model": "timm",
        "logger": "none",
        "test": "false",
        "seed": seed,
        "trainer.accelerator": "cpu",
        "data.root": options.data,
        "model.task.network._target_": "reference.network",
        "model.task.network.name": options.model,
        "trainer.max_epochs": options.epochs,
        "data.batch_size": options.batch,
        "model.image_size": options.size,
        "model.task.optimizer.lr": options.lr,
        "model.task.optimizer.weight_decay": options.weight_decay,
        "model.task.ema_decay": "null",
        # Their crops show a thing 0.76 to 2.7 times as large as their validation does, on average
        # 1.18 times, for that looks at the middle; ours looks at the whole.
        "data.augment.scale": "[0.76,1.6]",
        "data.detail": 1.25,
        "data.augment.translate": 0.15,
        "data.augment.brightness": 0.0,
        "data.augment.contrast": 0.0,
        "data.augment.saturation": 0.0,
    } | {f"paths.{key}": folder / key for key in ("runs", "weights", "cache")}
    python = [sys.executable, "-u"]
    flags = [part for key, value in theirs.items() for part in (f"--{key}", str(value))]
    overrides = [f"{key}={value}" for key, value in ours.items()]
    script = [*python, str(options.script / "train.py"), *flags]
    return {"ours": [*python, __file__, "--ours", *overrides]} | {
        f"theirs, -j {count}": [*script, "-j", str(count)] for count in options.workers
    }


def network(name: str, num_classes: int, **_: object) -> "nn.Module":
    """A network of torchvision's, in place of timm's."""
    from torchvision.models import get_model

    return get_model(name, num_classes=num_classes)


def train(overrides: Sequence[str]) -> None:
    """Ours: train.py, which also says when an epoch starts and when its training part has ended."""
    from nano_cv.config.processes import keep_memory

    keep_memory()  # before torch is loaded

    import pytorch_lightning as pl

    from nano_cv.training import fitting

    class Clock(fitting.Epochs):
        def on_train_epoch_start(self, *_: pl.Trainer | pl.LightningModule) -> None:
            print("clock: start")

        def on_validation_start(self, *_: pl.Trainer | pl.LightningModule) -> None:
            print("clock: trained")

    fitting.Epochs = Clock  # type: ignore[misc]
    sys.argv[1:] = overrides
    import train as script

    script.train()


def watch(command: Sequence[str], threads: int) -> Run:
    """Run to the end, with a look at the clock at each line that says where it stands."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    lines: list[str] = []
    epochs: list[float] = []
    accuracies: list[float] = []
    before = started = 0.0
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout
        for line in process.stdout:
            now = time.perf_counter()
            lines.append(line)
            if found := ACCURACY.search(line):
                accuracies.append(float(found[1]) if found[1] else 100 * float(found[2]))
            if START.search(line):
                before, started = before or now - began, now
            if TRAINED.search(line):
                epochs.append(now - started)
    if process.returncode:
        sys.exit(f"{' '.join(command)}\nended with {process.returncode}:\n{''.join(lines[-20:])}")
    return Run(before, epochs, time.perf_counter() - began, accuracies)


def main() -> None:
    """Run all in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--script", type=Path, help="folder of torchvision's train.py")
    parser.add_argument("--data", type=Path, help="folder with train/, val/ and test/")
    parser.add_argument("--model", default="resnet18", help="of torchvision")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="of their loader")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each training")
    parser.add_argument("--ours", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        train(options.ours)
        return
    if not (options.script and options.data):
        parser.error("--script and --data are needed")
    if not (options.script / "train.py").is_file():
        parser.error(f"--script {options.script}: there is no train.py in it")
    for split in ("train", "val", "test"):
        if not (options.data / split).is_dir():  # ours would take it out of the training pictures
            parser.error(f"--data {options.data}: there is no {split}/ in it")
    from nano_cv.data.formats.folder import read_folder

    pictures = read_folder(options.data, "classification")["train"]
    count = sum(one.numel() for one in network(options.model, len(pictures.classes)).parameters())
    print(
        f"{options.model}, {count:,} parameters; {len(pictures)} pictures to train on", flush=True
    )
    runs: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.rounds):
            for kind, command in commands(options, seed, Path(folder)).items():
                run = watch(command, options.threads)
                runs.setdefault(kind, []).append(run)
                print(f"{kind}:", *(f"{value:.1f} %" for value in run.accuracies), flush=True)
                print(" seconds of epochs:", *(f"{value:.1f}" for value in run.epochs), flush=True)
    report(runs, len(pictures), options.batch)


def report(runs: dict[str, list[Run]], pictures: int, batch: int) -> None:
    """A table: means over the rounds; the speed is the median of all epochs but the first."""
    print(
        "\n| | best % | last % | pictures/s | of slowest to fastest epoch | ours is faster by ",
        end="",
    )
    print(
        "| first epoch, pictures/s | s before it | minutes |\n|:--|--:|--:|--:|:-:|--:|--:|--:|--:|"
    )
    speed_of_ours = 0.0
    for kind, some in runs.items():
        trained = pictures // batch * batch if kind == "ours" else pictures
        speeds = [trained / seconds for run in some for seconds in run.epochs[1:]]
        speed_of_ours = speed_of_ours or median(speeds)
        cells = [
            f"{fmean(max(run.accuracies) for run in some):.1f}",
            f"{fmean(run.accuracies[-1] for run in some):.1f}",
            f"{median(speeds):.1f}",
            f"{min(speeds):.1f} to {max(speeds):.1f}",
            "" if kind == "ours" else f"{speed_of_ours / median(speeds):.2f}",
            f"{fmean(trained / run.epochs[0] for run in some):.1f}",
            ", ".join(f"{run.before:.1f}" for run in some),
            f"{fmean(run.whole for run in some) / 60:.1f}",
        ]
        print(f"| {kind} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
