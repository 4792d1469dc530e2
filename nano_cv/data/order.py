"""Order of the images in a training, independent of the number of processes that share it."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

WINDOW = 4  # number of shards whose images are mixed; store.MAX_SHARDS must be larger
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


class ShardOrder(Order):
    """Sampler for which each worker of a DataLoader reads shards of its own, a few at a time.

    The images are laid out shard by shard, and this line is cut into a part of equal length for
    each process and worker, so that only the shards at the cuts are read twice. A worker mixes the
    images of `WINDOW` shards, and the batches of all workers follow each other in turn, as a
    DataLoader hands them out. The order depends only on seed, epoch, and the numbers of workers and
    processes. `shards` has the number of each image's shard; images of a shard follow each other.
    `batch_size` is that of one process.
    """

    def __init__(
        self,
        shards: Sequence[int] | NDArray[np.int32],
        batch_size: int,
        workers: int,
        ranks: Ranks = (1, 0),
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(len(shards), ranks, shuffle, seed)
        self.starts = np.flatnonzero(np.diff(np.asarray(shards), prepend=-1))  # of the shards
        self.batch_size, self.workers = batch_size, max(1, workers)

    def whole(self) -> NDArray[np.int64]:
        """See `Order`."""
        random = np.random.default_rng((self.seed, self.epoch))
        processes, rank = self.ranks
        count = len(self.starts)
        if count < processes * self.workers:  # so few that every worker can hold all of them
            return super().whole()
        dealt = random.permutation(count) if self.shuffle else np.arange(count)
        members = np.split(np.arange(self.count), self.starts[1:])
        line = np.concatenate([members[shard] for shard in dealt])
        ends = np.cumsum([len(members[shard]) for shard in dealt])[WINDOW - 1 :: WINDOW]
        own = np.array_split(np.arange(self.count), processes)[rank]
        orders = []
        for part in np.array_split(own, self.workers):
            cuts = ends[(ends > part[0]) & (ends <= part[-1])] - part[0]
            windows = np.split(line[part], cuts)
            mixed = map(random.permutation, windows) if self.shuffle else windows
            orders.append(np.concatenate(list(mixed)))
        whole = [len(order) // self.batch_size * self.batch_size for order in orders]
        pairs = list(zip(orders, whole, strict=True))
        batches = [order[:end].reshape(-1, self.batch_size) for order, end in pairs]
        turns = [batch for turn in zip_longest(*batches) for batch in turn if batch is not None]
        return np.concatenate([*turns, *(order[end:] for order, end in pairs)])


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
