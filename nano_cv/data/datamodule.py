"""Lightning DataModule that turns any data set on disk into batches."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nano_cv.data.mirroring import may_mirror
from nano_cv.data.order import Draw, Order, Ranks
from nano_cv.data.pictures import (
    STEP,
    Pictures,
    Resized,
    open_pictures,
    resize_splits,
    size_in_shape,
)
from nano_cv.data.targets import Boxes
from nano_cv.metadata import Size, height_width

log = logging.getLogger(__name__)
Batch = tuple[Tensor, Any]
POWERS = {"sqrt": 0.5, "full": 1.0}  # exponents of a class's size in its weight, by `balance`
PATIENCE = 180  # seconds without a batch from the workers, after which the training ends


class Batches(Dataset[Batch]):
    """Dataset of images of equal size as tensors, from which whole batches are fetched."""

    def __init__(self, resized: Resized, repeats: int = 1) -> None:
        self.resized, self.repeats = resized, repeats

    def __len__(self) -> int:
        return len(self.resized) * self.repeats

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return uint8 images `[B, 3, H, W]`, channels-last, and targets; see `Resized.targets`."""
        indices = [index % len(self.resized) for index in indices]
        images, targets = self.resized.fetch(indices), self.resized.targets(indices)
        if isinstance(targets, Boxes):
            return torch.from_numpy(images), Boxes(*map(torch.from_numpy, targets))
        return torch.from_numpy(images), torch.from_numpy(targets)


class DataModule(pl.LightningDataModule):
    """Splits of a data set, decoded once, checked on first use, and augmented per batch.

    `configs/data/flowers.yaml` and `configs/model/centernet.yaml` explain the arguments. `task` is
    the task to serve now, which decides targets and classes; `dataset` reads the `Pictures` of all
    splits from `root` and `task`. A `train_size` below `image_size` makes up for the zoom of the
    augmentation, which enlarges objects beyond their later size ("Fixing the train-test resolution
    discrepancy", 2019, https://arxiv.org/abs/1906.06423).
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
        if not augment and (crop or detail != 1):
            log.info("data.augment=null: data.crop and data.detail are not used")
        self.splits: dict[str, Resized] = {}
        self.data_hash = ""
        self.repeats = 1  # how often a training picture is seen per epoch, see `training.plan`
        # Where a resumed training goes on; Lightning loads the data before it sets the epoch.
        self.first_epoch = self.first_step = 0

    @property
    def classes(self) -> list[str]:
        """Class names; position is the class index."""
        return self.splits["train"].pictures.classes

    @property
    def whole_size(self) -> tuple[int, int]:
        """Height and width of whole training images, in pixels."""
        height, width = height_width(self.image_size)
        asked: Size | None = self.train_size
        if isinstance(asked, int) and height != width:  # as many pixels, in the shape of the input
            scale = min(1.0, asked / math.sqrt(height * width))
            step = STEP if height % STEP == width % STEP == 0 else 1  # a U-Net needs its multiples
            asked = [max(1, round(side * scale / step)) * step for side in (height, width)]
        return smaller(asked, self.image_size)

    @property
    def seen_size(self) -> tuple[int, int]:
        """Height and width of training images as the network sees them, in pixels."""
        return smaller(self.crop, self.whole_size)

    def setup(self, stage: str | None = None) -> None:
        """Open all splits, decoding and checking them the first time.

        Raises:
            UserError: missing data, images that cannot be used, or classes without images.
        """
        if not self.splits:
            pictures = open_pictures(self.dataset, self.root, self.task)
            if self.shape == "pictures" and isinstance(self.image_size, int):
                self.image_size = size_in_shape(pictures["train"], self.image_size)
            stored = [round(side * self.detail) for side in self.whole_size]
            options = (self.image_size, self.cache, self.fit, stored)
            self.splits, self.data_hash = resize_splits(pictures, *options)
            if self.augment and getattr(self.augment, "flip", 0.5) is None:
                self.augment.flip = 0.5 if may_mirror(self.splits) else 0.0  # type: ignore[assignment]

    def class_weights(self) -> Tensor | None:
        """Return class weights for the loss, float32 `[K]`, whose mean over all examples is 1.

        An example is an image, or a pixel of a mask.
        """
        if self.balance == "none":
            return None
        counts = torch.from_numpy(self.splits["train"].count()).double()
        weights = counts.clamp(min=1) ** -POWERS[self.balance]
        weights *= counts.sum() / (weights * counts).sum()
        weights[counts == 0] = 1
        return weights.float()

    def first_batch(self) -> Batch:
        """Return the first training images as a batch, augmented as in training; to time steps."""
        count = min(self.batch_size, len(self.splits["train"]))
        batch = Batches(self.splits["train"]).__getitems__(range(count))
        if not self.augment:
            return batch
        with torch.random.fork_rng(devices=[]):
            return self.augment(*batch, size=self.whole_size, crop=self.seen_size)

    @property
    def ranks(self) -> Ranks:
        """Number of processes that train, and the number of this process."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def count_in_step(self, index: int) -> int:
        """Return the number of training images of all processes in step `index` of an epoch."""
        seen = len(self.splits["train"]) * self.repeats
        return min(self.batch_size, seen - index * self.batch_size)

    def places(self, index: int, count: int) -> Tensor:
        """Return the positions in the split of this process's images in batch `index`.

        With shards these are not the real positions, but still differ from image to image.
        """
        processes, rank = self.ranks
        return rank + processes * (index * self.own_batch + torch.arange(count))

    def train_dataloader(self) -> DataLoader[Any]:
        """Load training images, shuffled by seed and epoch, so that resuming keeps the order."""
        batches = Batches(self.splits["train"], self.repeats)
        order = self._order(batches, shuffle=True)
        order.set_epoch(self.first_epoch)
        order.skip = self.first_step * self.own_batch
        if leaves_too_few(len(batches), self.batch_size, self.ranks[0]):
            order.left_out = len(batches) % self.batch_size
        return self._loader(batches, sampler=order)

    def val_dataloader(self) -> DataLoader[Any]:
        """Load validation images in the order of the list, or of the shards."""
        batches = Batches(self.splits["val"])
        return self._loader(batches, sampler=self._order(batches, shuffle=False))

    def _order(self, batches: Batches, shuffle: bool) -> Order:
        if not batches.resized.in_shards:
            return Order(len(batches), self.ranks, shuffle, self.seed)
        shards = np.tile(np.asarray(batches.resized.pictures.shards), batches.repeats)
        from nano_cv.data.shard_order import ShardOrder  # other sets need none of it

        return ShardOrder(shards, self.own_batch, self.workers, self.ranks, shuffle, self.seed)

    @property
    def own_batch(self) -> int:
        """Images per step and process."""
        return max(1, self.batch_size // self.ranks[0])

    def _loader(self, batches: Batches, **options: Any) -> DataLoader[Any]:
        if self.workers:
            options |= {"persistent_workers": True, "timeout": PATIENCE}
        return DataLoader(
            batches, self.own_batch, num_workers=self.workers, collate_fn=nn.Identity(), **options
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Seed torch per batch, so that a resumed run draws the numbers of an unbroken run.

        This hook comes just before the augmentation. Hooks at the start of an epoch would not do,
        as Lightning leaves them out when it resumes.
        """
        if self.trainer and self.trainer.training:
            batches = self.trainer.fit_loop.total_batch_idx + 1
            torch.manual_seed(self.seed * 1_000_003 + batches * 1_009)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment a training batch on the device that trains."""
        if self.augment and self.trainer and self.trainer.training:
            processes, rank = self.ranks
            index = self.trainer.fit_loop.epoch_loop.batch_idx + 1
            draw = Draw(self.count_in_step(index), slice(rank, None, processes))
            batch = self.augment(*batch, size=self.whole_size, crop=self.seen_size, draw=draw)
            if processes > 1:  # from here on, as for dropout, each process draws its own numbers
                torch.manual_seed(torch.initial_seed() + rank)
        return batch


def smaller(asked: Size | None, whole: Size) -> tuple[int, int]:
    """Return height and width of `asked`, limited to those of `whole`."""
    height, width = height_width(whole)
    rows, columns = height_width(asked or whole)
    return min(rows, height), min(columns, width)


def leaves_too_few(pictures: int, batch_size: int, processes: int = 1) -> bool:
    """Return whether the last of several steps has too few images.

    Batch norm needs at least two images, and each process needs one.
    """
    return pictures > batch_size > 1 and 0 < pictures % batch_size < max(2, processes)
