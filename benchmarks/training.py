"""Pictures per second of whole epochs, data included: the shipped recipe against a plain loop.

    python benchmarks/training.py

The plain loop is what one writes first: Pillow and torchvision transforms in the DataLoader, NCHW,
float32, default memory. Both train the same network on the same pictures, each in a process of its
own, in turn (A B A B ...), so that a machine which slows down slows both. The first epoch of each
process is not counted. For the recipe, the cache is warm: it is filled once per data set, not per
run, and the time it takes is printed beside.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def plain(epochs: int, workers: int) -> list[float]:
    """Seconds of each epoch of a loop without any of our measures."""
    import torch
    from PIL import Image
    from torchvision import transforms

    from nano_cv.data.formats.flowers import read_flowers
    from nano_cv.networks.lenet import LeNet

    flowers = read_flowers(Path("data/flowers"), "classification")["train"]
    change = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomAffine(180, translate=(0.05, 0.05), scale=(0.8, 1.1)),
            transforms.ColorJitter(0.2, 0.2, 0.2),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    class Photos(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(flowers)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            image = Image.open(flowers.files[index]).convert("RGB")
            return change(image), flowers.targets[index]

    network = LeNet(len(flowers.classes))
    for module in network.modules():
        if isinstance(module, torch.nn.LeakyReLU):
            module.inplace = False  # torch's default
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    loader = torch.utils.data.DataLoader(Photos(), 32, shuffle=True, num_workers=workers)
    seconds = []
    for _ in range(epochs + 1):
        start = time.perf_counter()
        for images, labels in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def recipe(epochs: int, _: int) -> list[float]:
    """Seconds of each training epoch as train.py does it, without validation and checkpoints."""
    from nano_cv.training.processor import best_precision, keep_memory

    keep_memory()

    import hydra
    import pytorch_lightning as pl

    from nano_cv import building
    from nano_cv.config.checks import CONFIGS

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_train_epoch_start(self, *_: object) -> None:
            self.start = time.perf_counter()

        def on_train_epoch_end(self, *_: object) -> None:
            self.seconds.append(time.perf_counter() - self.start)

    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("train", ["logger=none"])
    data = building.make_data(config)
    task = building.make_task(config, building.make_metadata(config, data, ""))
    learner, clock = building.make_learner(config, task), Clock()
    trainer = pl.Trainer(
        max_epochs=epochs + 1,
        precision=best_precision("cpu"),  # type: ignore[arg-type]
        accelerator="cpu",
        gradient_clip_val=config.trainer.gradient_clip_val,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(learner, data)
    return clock.seconds[1:]


def main() -> None:
    """Run both in turn, and print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="counted epochs of each round")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="of the plain loop")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, workers = arguments.one
        seconds = {"plain": plain, "recipe": recipe}[kind](arguments.epochs, int(workers))
        print(json.dumps(seconds))
        return
    kinds = [("recipe", 0), *(("plain", workers) for workers in arguments.workers)]
    pictures = len(Path("data/flowers/train.txt").read_text().split())
    speeds: dict[tuple[str, int], list[float]] = {kind: [] for kind in kinds}
    for _ in range(arguments.rounds):
        for kind in kinds:
            one = ["--one", kind[0], str(kind[1]), "--epochs", str(arguments.epochs)]
            done = subprocess.run(
                [sys.executable, __file__, *one], stdout=subprocess.PIPE, check=True, text=True
            )
            speeds[kind] += [pictures / s for s in json.loads(done.stdout.splitlines()[-1])]
            print(*kind, "pictures/s:", *(f"{speed:.1f}" for speed in speeds[kind]), flush=True)
    ours = statistics.median(speeds[kinds[0]])
    print(f"\nrecipe: {ours:.1f} pictures/s (median of {len(speeds[kinds[0]])} epochs)")
    for kind in kinds[1:]:
        theirs = statistics.median(speeds[kind])
        print(f"plain loop, {kind[1]} workers: {theirs:.1f}; recipe / plain = {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
