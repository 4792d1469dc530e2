"""Order of the images in a training, independent of the number of processes that share it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

Ranks = tuple[int, int]  # number of processes, and the number of this process


class Order(Sampler[int]):
    """Sampler with a new order in each epoch, of which each of n processes takes every n-th image.

    So the batches of all processes together equal the batches of a single process. No image is seen
    twice, so the last batches of two processes may differ by an image.
    """

    def __init__(self, count: int, ranks: Ranks = (1, 0), shuffle: bool = True, seed: int = 0):
        self.count, self.ranks, self.shuffle, self.seed, self.epoch = count, ranks, shuffle, seed, 0
        self.left_out = 0  # number of images that are dropped at the end of each epoch
        # Number of images to skip at the start of the next epoch: a resumed run has seen them.
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the order depends; called by Lightning."""
        self.epoch = epoch

    def __len__(self) -> int:
        processes, rank = self.ranks
        return len(range(rank, self.count - self.left_out, processes))

    def __iter__(self) -> Iterator[int]:
        begin, self.skip = self.skip, 0
        return map(int, self.whole()[begin : len(self)])

    def whole(self) -> NDArray[np.int64]:
        """Return the images of this process, also those that are skipped or left out."""
        processes, rank = self.ranks
        order = torch.arange(self.count)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.count, generator=generator)
        return order[rank::processes].numpy()


class Draw(NamedTuple):
    """Random numbers for this process's images of a batch that several processes share.

    Every process draws the numbers of the whole batch, so that each image gets the same numbers for
    any number of processes.
    """

    pictures: int  # in the whole batch
    own: slice = slice(None)  # the positions of this process's images in the batch

    def uniform(self, low: float, high: float, rows: int = 1) -> Tensor:
        """Draw numbers between `low` and `high`, float32 `[rows, B]`, B images of this process."""
        return (torch.rand(rows * self.pictures) * (high - low) + low).view(rows, -1)[:, self.own]
