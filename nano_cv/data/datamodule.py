"""From a data set on disk to batches: one DataModule for every set."""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nano_cv.data.order import Draw, Order, Ranks, ShardOrder
from nano_cv.data.pictures import (
    Boxes,
    Pictures,
    Resized,
    open_pictures,
    resize_splits,
    size_in_shape,
)
from nano_cv.errors import UserError
from nano_cv.metadata import Size, height_width

Batch = tuple[Tensor, Any]
SHARED_MEMORY = Path("/dev/shm")  # where workers leave their batches, on Linux
POWERS = {"sqrt": 0.5, "full": 1.0}  # of a class's size, by `balance`
AHEAD = 2  # batches that each worker has ready, the DataLoader's own default
PATIENCE = 180  # seconds without a batch from the workers, after which the training ends


class Batches(Dataset[Batch]):
    """Pictures at one size as tensors, fetched a whole batch at a time."""

    def __init__(self, resized: Resized, repeats: int = 1) -> None:
        self.resized, self.repeats = resized, repeats

    def __len__(self) -> int:
        return len(self.resized) * self.repeats

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """uint8 images `[B, 3, H, W]`, channels-last, and targets: see `Resized.targets`."""
        indices = [index % len(self.resized) for index in indices]
        images, targets = self.resized.fetch(indices), self.resized.targets(indices)
        if isinstance(targets, Boxes):
            return torch.from_numpy(images), Boxes(*map(torch.from_numpy, targets))
        return torch.from_numpy(images), torch.from_numpy(targets)


class DataModule(pl.LightningDataModule):
    """Splits of a data set, decoded once, checked on first use, augmented by the batch.

    Args:
        name: what the set is called; half of the trained model's name.
        tasks: what the set can serve; the command line checks a model against it.
        task: what it is to serve now: which targets, and with them which classes.
        root: folder of the set.
        dataset: reads the `Pictures` of all splits from `root` and `task`.
        image_size: side of the square input in pixels, or height and width.
        shape: `square`, or that of the `pictures`: then the side says only how many pixels.
        fit: how a picture is fitted into the input, see `images.place`.
        batch_size: pictures per step, over all processes that train.
        workers: processes that fetch batches; with a cache none are needed.
        cache: folder of decoded pictures; None decodes in every epoch.
        seed: of the order of the training pictures.
        train_size: likewise of the training pictures, where it is less than `image_size`. Zooming
            in makes what is on them larger than it will be; fewer pixels make up for it, and are
            quicker ("Fixing the train-test resolution discrepancy", 2019,
            https://arxiv.org/abs/1906.06423).
        crop: likewise of the part of a training picture that is seen in one step, each time
            another one, at the scale of the whole; None: all of it.
        detail: how many times larger than the network sees them training pictures are kept, 1 to
            2, so that the augmentation, which makes them smaller, has more to zoom into.
        balance: `none`, or how much more an example of a rare class weighs in the loss: by the
            inverse of the class's size (`full`), or of its square root (`sqrt`).
        augment: changes training batches; None leaves them.
    """

    def __init__(
        self,
        name: str,
        tasks: Sequence[str],
        task: str,
        root: str | Path,
        dataset: Callable[..., dict[str, Pictures]],
        image_size: Size,
        shape: str = "square",
        fit: str = "stretch",
        batch_size: int = 32,
        workers: int = 0,
        cache: str | Path | None = None,
        seed: int = 0,
        train_size: Size | None = None,
        crop: Size | None = None,
        detail: float = 1.0,
        balance: str = "none",
        augment: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.name, self.tasks, self.root, self.dataset = name, tasks, root, dataset
        self.task, self.image_size, self.shape, self.fit = task, image_size, shape, fit
        self.batch_size, self.workers = batch_size, workers
        self.cache, self.seed, self.augment = cache, seed, augment
        self.train_size, self.crop = train_size, crop if augment else None
        self.detail, self.balance = detail if augment else 1.0, balance
        self.splits: dict[str, Resized] = {}
        self.data_hash = ""
        self.repeats = 1  # how often a training picture is seen per epoch, see `training.plan`
        self.first_epoch = 0  # where a resumed training goes on; Lightning fetches before it tells

    @property
    def classes(self) -> list[str]:
        """Class names; position is the class index."""
        return self.splits["train"].pictures.classes

    @property
    def whole_size(self) -> tuple[int, int]:
        """Height and width of whole training pictures, in pixels."""
        return smaller(self.train_size, self.image_size)

    @property
    def seen_size(self) -> tuple[int, int]:
        """Height and width of what the network sees of training pictures, in pixels."""
        return smaller(self.crop, self.whole_size)

    def setup(self, stage: str | None = None) -> None:
        """Open all splits, decoding and checking them if that has not been done before.

        Raises:
            UserError: data not there, pictures that cannot be used, classes without pictures.
        """
        if not self.splits:
            pictures = open_pictures(self.dataset, self.root, self.task)
            if self.shape == "pictures" and isinstance(self.image_size, int):
                self.image_size = size_in_shape(pictures["train"], self.image_size)
            stored = [round(side * self.detail) for side in self.whole_size]
            options = (self.image_size, self.cache, self.fit, stored)
            self.splits, self.data_hash = resize_splits(pictures, *options)

    def class_weights(self) -> Tensor | None:
        """Weights of the classes `[K]` in the loss, float32, 1 in the mean over all examples.

        An example is a picture, or a pixel of a mask.
        """
        if self.balance == "none":
            return None
        counts = torch.from_numpy(self.splits["train"].count()).double()
        weights = counts.clamp(min=1) ** -POWERS[self.balance]
        weights[counts == 0] = 0
        weights *= counts.sum() / (weights * counts).sum()
        weights[counts == 0] = 1
        return weights.float()

    def first_batch(self) -> Batch:
        """The first training pictures, not augmented, to try a step with."""
        count = min(self.batch_size, len(self.splits["train"]))
        return Batches(self.splits["train"]).__getitems__(range(count))

    @property
    def ranks(self) -> Ranks:
        """How many processes train, and which this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def count_in_step(self, index: int) -> int:
        """Training pictures of all processes in step number `index` of an epoch."""
        seen = len(self.splits["train"]) * self.repeats
        return min(self.batch_size, seen - index * self.batch_size)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training pictures, shuffled by seed and epoch: a resumed run sees the same order."""
        batches = Batches(self.splits["train"], self.repeats)
        order = self._order(batches, shuffle=True)
        order.set_epoch(self.first_epoch)
        alone = leaves_too_few(len(batches), self.batch_size, self.ranks[0])
        if alone:
            order.leave_out(len(batches) % self.batch_size)
        return self._loader(batches, sampler=order)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation pictures in the order of the list, or of the shards."""
        batches = Batches(self.splits["val"])
        return self._loader(batches, sampler=self._order(batches, shuffle=False))

    def _order(self, batches: Batches, shuffle: bool) -> Order:
        if not batches.resized.in_shards:
            return Order(len(batches), self.ranks, shuffle, self.seed)
        shards = list(batches.resized.pictures.shards) * batches.repeats
        return ShardOrder(shards, self.own_batch, self.workers, self.ranks, shuffle, self.seed)

    @property
    def own_batch(self) -> int:
        """Pictures per step of one process."""
        return max(1, self.batch_size // self.ranks[0])

    def _loader(self, batches: Batches, **options: Any) -> DataLoader[Any]:
        if self.workers:
            check_shared_memory(self.own_batch * math.prod(batches.resized.shape), self.workers)
            options |= {"persistent_workers": True, "prefetch_factor": AHEAD, "timeout": PATIENCE}
        return DataLoader(
            batches, self.own_batch, num_workers=self.workers, collate_fn=_as_it_is, **options
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Seed by batch, so that a resumed run draws the same numbers as an unbroken one.

        Here, for augmentation comes next, and not where an epoch starts: Lightning leaves out those
        hooks when it resumes.
        """
        if self.trainer and self.trainer.training:
            batches = self.trainer.fit_loop.total_batch_idx + 1
            torch.manual_seed(self.seed * 1_000_003 + batches * 1_009)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment training batches on the device that trains."""
        if self.augment and self.trainer and self.trainer.training:
            processes, rank = self.ranks
            index = self.trainer.fit_loop.epoch_loop.batch_idx + 1
            draw = Draw(self.count_in_step(index), slice(rank, None, processes))
            batch = self.augment(*batch, size=self.whole_size, crop=self.seen_size, draw=draw)
            if processes > 1:  # of here on, such as for dropout, each process has its own numbers
                torch.manual_seed(torch.initial_seed() + rank)
        return batch


def smaller(asked: Size | None, whole: Size) -> tuple[int, int]:
    """Height and width that are asked for, but not more than those of the whole."""
    height, width = height_width(whole)
    rows, columns = height_width(asked or whole)
    return min(rows, height), min(columns, width)


def leaves_too_few(pictures: int, batch_size: int, processes: int = 1) -> bool:
    """Whether the last of several steps has too few pictures.

    Batch norm cannot compare a single picture, and each process needs one.
    """
    return pictures > batch_size > 1 and 0 < pictures % batch_size < max(2, processes)


def _as_it_is(batch: Any) -> Any:
    return batch


def check_shared_memory(size: int, workers: int) -> None:
    """Batches of `size` bytes must fit where workers leave them; else a training waits for ever.

    Raises:
        UserError: there is too little shared memory; says what to do.
    """
    if not SHARED_MEMORY.is_dir():  # macOS has no such folder
        return
    needed, free = size * workers * AHEAD, shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise UserError(
            f"data.workers={workers}: their batches need {needed / 1e6:,.1f} MB of shared memory, "
            f"and {SHARED_MEMORY} has {free / 1e6:,.1f} MB left; free some, give a container more "
            "(docker run --shm-size=2g), or load in this process: data.workers=0"
        )
