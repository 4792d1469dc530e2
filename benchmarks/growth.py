"""Start-up time and memory of sets that grow: loose pictures, and the same in shards.

    python benchmarks/growth.py                     1,000 to 100,000 pictures of 32 pixels
    python benchmarks/growth.py --counts 1000000    needs 5 GB of disk, and half an hour

Each row is a process of its own that opens the set as `train.py` does and takes one batch: the
first time pictures are decoded into the cache, then they are there. Shards are not decoded before;
they are small here, 10 MB, as up to five of them are held in memory.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from nano_cv.data.datamodule import DataModule
from nano_cv.data.formats.folder import read_folder
from nano_cv.data.formats.shards import read_shards, write_shards
from nano_cv.data.pictures import open_pictures, resize_splits

SIDE, CLASSES = 32, 10
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def make_pictures(root: Path, count: int) -> None:
    """Write PNGs of noise, no two alike, as a folder per split and class."""
    random = np.random.default_rng(0)
    for split, share in SHARES.items():
        for label in range(CLASSES):
            folder = root / split / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(round(count * share / CLASSES)):
                content = io.BytesIO()
                pixels = random.integers(0, 256, (8, 8, 3), np.uint8).repeat(SIDE // 8, 0)
                Image.fromarray(pixels.repeat(SIDE // 8, 1)).save(content, "PNG", compress_level=1)
                (folder / f"{number:06d}.png").write_bytes(content.getvalue())


def open_set(root: Path, cache: str | None) -> dict[str, float]:
    """Seconds, processor seconds and megabytes of opening a set and taking one batch."""
    start, used = time.perf_counter(), time.process_time()
    before = psutil.Process().memory_info().rss
    dataset = read_folder if cache else read_shards
    data = DataModule(
        name="growth",
        task="classification",
        root=str(root),
        dataset=dataset,
        tasks=["classification"],
        image_size=SIDE,
        batch_size=64,
        cache=cache,
    )
    data.setup()
    next(iter(data.train_dataloader()))
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - used,
        "megabytes": (psutil.Process().memory_info().rss - before) / 1e6,
    }


def measure(root: Path, cache: Path | None) -> dict[str, float]:
    """`open_set` in a process of its own."""
    command = [sys.executable, __file__, "--open", str(root), "--cache", str(cache or "")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Print a row per set and way to open it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.open:
        print(json.dumps(open_set(given.open, given.cache or None)))
        return
    print("| pictures | opened | seconds | CPU seconds | MB more |\n|--:|---|--:|--:|--:|")
    for count in given.counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_pictures(folder / "set", count)
            pictures = open_pictures(read_folder, folder / "set", "classification")
            splits, data_hash = resize_splits(pictures, SIDE, None, "stretch")
            write_shards(splits, data_hash, str(folder / "shards"), 10**7)
            for what, root, cache in (
                ("for the first time", "set", folder / "cache"),
                ("again", "set", folder / "cache"),
                ("in shards", "shards", None),
            ):
                row = measure(folder / root, cache)
                print(
                    f"| {count:,} | {what} | {row['seconds']:.1f} | {row['cpu']:.1f} | "
                    f"{row['megabytes']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
