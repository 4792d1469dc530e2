"""Pictures per second that a training is given: loose files, shards in a folder, shards in a store.

    python benchmarks/loading.py
    python benchmarks/loading.py --data data/photos      (train/, val/, test/, a folder per class)

Each row is the loader of `train.py` and nothing else: no network, no augmentation. The rows take
turns, epoch by epoch, so that a machine which slows down slows all; an epoch that is not counted
comes first. Files and shards lie in the memory of the operating system by then, which is the best
that loose files can be. The store is moto's server in a process of its own, on this machine and at
the cost of its processor, unless `AWS_ENDPOINT_URL` names another, with a bucket `nano-cv-loading`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import boto3

from nano_cv.data import store
from nano_cv.data.datamodule import DataModule
from nano_cv.data.formats.flowers import read_flowers
from nano_cv.data.formats.folder import read_folder
from nano_cv.data.formats.shards import read_shards, write_shards
from nano_cv.data.pictures import open_pictures, resize_splits

BUCKET = "nano-cv-loading"
SERVER = "from moto.server import main; main(['-p', '{port}', '-H', '127.0.0.1'])"


@contextmanager
def a_store(port: int) -> Iterator[str]:
    """Start a store, or use the one that the environment names; yields a URL in it."""
    server = None
    if "AWS_ENDPOINT_URL" not in os.environ:
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        command = [sys.executable, "-c", SERVER.format(port=port)]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        client = boto3.client("s3", region_name="us-east-1")
        for _ in range(100):
            try:
                client.create_bucket(Bucket=BUCKET)
                break
            except Exception:  # not there yet
                time.sleep(0.2)
        yield f"s3://{BUCKET}/{time.time():.0f}"
    finally:
        if server:
            server.terminate()
            server.wait()


def alone(member: store.Member) -> bytes:
    """A picture a request, as if the store held loose files."""
    return store.read(member.shard, member.start, member.size)


def epoch(data: DataModule, number: int, reading: Callable[[store.Member], bytes] | None) -> float:
    """Pictures per second of one epoch; its worker processes start anew, as for a first one."""
    usual = store.Member.read_bytes
    store.Member.read_bytes = reading or usual  # type: ignore
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
    start = time.perf_counter()
    count = sum(len(images) for images, _ in loader)
    seconds = time.perf_counter() - start
    store.Member.read_bytes = usual  # type: ignore[method-assign]
    store.ASKED.clear()
    store.whole_shard.cache_clear()
    return count / seconds


def main() -> None:
    """Write the shards, let the rows take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="default: data/flowers")
    parser.add_argument("--size", type=int, default=224, help="side in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-mb", type=float, default=4.0)
    parser.add_argument("--port", type=int, default=5055, help="of the store")
    given = parser.parse_args()
    dataset, root = (
        (read_folder, given.data) if given.data else (read_flowers, Path("data/flowers"))
    )
    make = partial(DataModule, "x", [], "classification", image_size=given.size, batch_size=32)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(a_store(given.port))
        pictures = open_pictures(dataset, root, "classification")
        opened = resize_splits(pictures, given.size, None, "stretch")
        for output in (str(folder / "shards"), url):
            write_shards(*opened, output, int(given.shard_mb * 1e6))
        rows = {
            "decoded once, cache": (make(root, dataset, cache=folder / "cache"), None),
            "loose files, no workers": (make(root, dataset), None),
            "loose files, 2 workers": (make(root, dataset, workers=2), None),
            "shards in a folder, 2 workers": (
                make(folder / "shards", read_shards, workers=2),
                None,
            ),
            "shards in a store, 2 workers": (make(url, read_shards, workers=2), None),
            "the store, a picture a request": (make(url, read_shards, workers=2), alone),
        }
        for data, _ in rows.values():
            data.setup()
        speeds: dict[str, list[float]] = {name: [] for name in rows}
        for number in range(given.rounds + 1):
            for name, (data, reading) in rows.items():
                speeds[name].append(epoch(data, number, reading))
    files = statistics.median(speeds["loose files, 2 workers"][1:])
    print(f"{len(opened[0]['train'])} pictures, {given.size} pixels, {os.cpu_count()} cores")
    for name, values in speeds.items():
        middle = statistics.median(values[1:])
        print(f"{name:32} {middle:7.0f} pictures/s  {middle / files:5.2f}")


if __name__ == "__main__":
    main()
