"""Pictures per second of whole epochs, data included: the shipped recipe against a plain loop.

    python benchmarks/training.py                       the recipe against the plain loop
    python benchmarks/training.py --processes 1 2 4     the recipe by several processes
    python benchmarks/training.py --models lenet unet   other recipes, as quick as without data

The plain loop is what one writes first: Pillow and torchvision transforms in the DataLoader, NCHW,
float32, default memory. Both train the same network on the same pictures, each in a process of its
own, in turn (A B A B ...), so that a machine which slows down slows both. The first epoch of each
process is not counted. For the recipe, the cache is warm: it is filled once per data set, not per
run, and the time it takes is printed beside.

Several processes have one thread each, and share the batches of a training. Their limit is what the
machine does with as many trainings that know nothing of each other, of batches as small.

With `--models`, each recipe trains as `train.py` does on this machine, in the precision that `auto`
picks: once with its data, and once with a batch that lies in the memory of the GPU and is
augmented again and again. If both are as quick, nothing waits for the data.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def plain(epochs: int, workers: int, *others: int) -> list[float]:
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
            image = Image.open(str(flowers.files[index])).convert("RGB")
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


def recipe(
    epochs: int,
    _: int,
    processes: int,
    batch_size: int,
    model: str = "",
    again: bool = False,
) -> list[float]:
    """Seconds of each training epoch as train.py does it, without validation and checkpoints.

    Args:
        epochs: number of epochs that are counted.
        _: workers, which only the plain loop has.
        processes: number of processes that share the training.
        batch_size: pictures per step, of LeNet on a processor.
        model: name of the model, if its own batches are wanted, on the device of `train.py`.
        again: whether every step has the same pictures, which lie in the memory of the device.
    """
    from nano_cv.config.processes import keep_memory

    keep_memory()

    import hydra
    import pytorch_lightning as pl
    import torch

    from nano_cv import building
    from nano_cv.config.options import CONFIGS
    from nano_cv.evaluation.engines import find_device
    from nano_cv.training import starting
    from nano_cv.training.processor import best_precision, choose_precision

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_train_epoch_start(self, *_: object) -> None:
            self.start = time.perf_counter()

        def on_train_epoch_end(self, *_: object) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.start)

    device = "auto" if model else "cpu"
    chosen = [f"model={model}"] if model else [f"data.batch_size={batch_size}"]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("train", ["logger=none", *chosen])
    data = building.make_data(config)
    task = building.make_task(config, starting.make_metadata(config, data, ""))
    if again:
        first = next(iter(data.train_dataloader()))
        batch = data.transfer_batch_to_device(first, find_device(device), 0)
        steps = round(len(data.splits["train"]) / data.batch_size)
        data.train_dataloader = lambda: torch.utils.data.DataLoader(  # type: ignore[method-assign]
            [batch] * steps,  # type: ignore[arg-type]
            batch_size=None,
            collate_fn=lambda one: one,
        )
    learner, clock = starting.make_learner(config, task), Clock()
    precision = best_precision(device)
    if model:
        precision = choose_precision(device, task, data.first_batch, "", processes)
    trainer = pl.Trainer(
        max_epochs=epochs + 1,
        precision=precision,  # type: ignore[arg-type]
        accelerator=device,
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        use_distributed_sampler=False,
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


def measure(
    kind: str,
    workers: int,
    given: argparse.Namespace,
    processes: int = 1,
    copies: int = 1,
    model: str = "",
    again: bool = False,
) -> list[float]:
    """Pictures per second of each epoch, of all `copies` of a training that run at once.

    Args:
        kind: `recipe` or `plain`.
        workers: processes that load the pictures of the plain loop.
        given: the command line.
        processes: that share a training.
        copies: number of trainings that run beside each other.
        model: name of the model of the recipe; empty: LeNet, on the processor.
        again: whether the recipe sees the same batch in every step.
    """
    command = [sys.executable, __file__, "--one", kind, str(workers), "--epochs", str(given.epochs)]
    command += ["--processes", str(processes), "--batch", str(given.batch // copies)]
    command += [*(["--models", model] if model else []), *(["--again"] if again else [])]
    single = {"OMP_NUM_THREADS": "1"} if given.processes else {}
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | single)
        for _ in range(copies)
    ]
    outputs = [process.communicate()[0] for process in started]
    for process in started:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    pictures = len(Path("data/flowers/train.txt").read_text().split())
    seconds = [json.loads(output.splitlines()[-1]) for output in outputs]
    return [sum(pictures / each for each in epoch) for epoch in zip(*seconds, strict=True)]


def compare_processes(given: argparse.Namespace) -> None:
    """Print the speed of a training by each number of processes, beside the machine's limit."""
    ways = [(count, shared) for count in given.processes for shared in (True, False)]
    speeds: dict[tuple[int, bool], list[float]] = {way: [] for way in ways}
    for _ in range(given.rounds):
        for count, shared in ways:
            numbers = {"processes": count} if shared else {"copies": count}
            speeds[count, shared] += measure("recipe", 0, given, **numbers)
    middle = {way: statistics.median(found) for way, found in speeds.items()}
    first = middle[given.processes[0], True]
    print("| processes | pictures/s | speed-up | as many trainings alone | of their speed |")
    print("|--:|--:|--:|--:|--:|")
    for count in given.processes:
        ours, limit = middle[count, True], middle[count, False]
        print(f"| {count} | {ours:.1f} | {ours / first:.2f} | {limit:.1f} | {ours / limit:.2f} |")


def compare_models(given: argparse.Namespace) -> None:
    """Print the speed of each model with its data, beside that with a single batch."""
    print("| model | pictures/s | without data | of their speed |\n|---|--:|--:|--:|")
    for model in given.models:
        speeds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(given.rounds):
            for again, found in speeds.items():
                found += measure("recipe", 0, given, model=model, again=again)
        ours, limit = statistics.median(speeds[False]), statistics.median(speeds[True])
        print(f"| {model} | {ours:.0f} | {limit:.0f} | {ours / limit:.2f} |", flush=True)


def main() -> None:
    """Run both in turn, and print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="counted epochs of each round")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="of the plain loop")
    parser.add_argument("--processes", type=int, nargs="*", help="numbers of processes to compare")
    parser.add_argument("--models", nargs="*", default=[], help="recipes, on this machine's GPU")
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=16, help="pictures in a step of the recipe")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, workers = arguments.one
        options = [arguments.epochs, int(workers), *arguments.processes, arguments.batch]
        options += [arguments.models[0], arguments.again] if arguments.models else []
        print(json.dumps((plain if kind == "plain" else recipe)(*options)))
        return
    if arguments.models:
        compare_models(arguments)
        return
    if arguments.processes:
        compare_processes(arguments)
        return
    kinds = [("recipe", 0), *(("plain", workers) for workers in arguments.workers)]
    speeds: dict[tuple[str, int], list[float]] = {kind: [] for kind in kinds}
    for _ in range(arguments.rounds):
        for kind in kinds:
            speeds[kind] += measure(*kind, arguments)
            print(*kind, "pictures/s:", *(f"{speed:.1f}" for speed in speeds[kind]), flush=True)
    ours = statistics.median(speeds[kinds[0]])
    print(f"\nrecipe: {ours:.1f} pictures/s (median of {len(speeds[kinds[0]])} epochs)")
    for kind in kinds[1:]:
        theirs = statistics.median(speeds[kind])
        print(f"plain loop, {kind[1]} workers: {theirs:.1f}; recipe / plain = {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
