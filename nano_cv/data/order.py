"""Order of the images in a training, independent of the number of processes that share it."""

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

WINDOW = 4  # number of shards whose images are mixed; store.HELD must be larger
Ranks = tuple[int, int]  # number of processes, and the number of this process


class Order(Sampler[int]):
    """Sampler with a new order in each epoch, of which each of n processes takes every n-th image.

    So the batches of all processes together equal the batches of a single process. No image is seen
    twice, so the last batches of two processes may differ by an image.

    Args:
        count: number of images.
        ranks: number of processes, and the number of this process.
        shuffle: whether to shuffle the images.
        seed: seed of the order.
    """

    def __init__(self, count: int, ranks: Ranks = (1, 0), shuffle: bool = True, seed: int = 0):
        self.count, self.ranks, self.shuffle, self.seed, self.epoch = count, ranks, shuffle, seed, 0
        self.left_out = 0

    def leave_out(self, count: int) -> None:
        """Leave out the last `count` images of each epoch, random images if shuffled."""
        self.left_out = count

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the order depends; called by Lightning."""
        self.epoch = epoch

    def __len__(self) -> int:
        processes, rank = self.ranks
        return len(range(rank, self.count - self.left_out, processes))

    def __iter__(self) -> Iterator[int]:
        processes, rank = self.ranks
        order = torch.arange(self.count)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.count, generator=generator)
        return iter(order[: self.count - self.left_out][rank::processes].tolist())


class ShardOrder(Order):
    """Sampler for which each worker of a DataLoader reads shards of its own, a few at a time.

    The shards are dealt to the workers of all processes; a worker mixes the images of `WINDOW`
    shards, and the batches of all workers follow each other in turn, as a DataLoader hands them
    out. A process that was dealt too many images gives its last images to other processes, so that
    all take equally many steps. The order depends only on seed, epoch, and the numbers of workers
    and processes.

    Args:
        shards: number of the shard of each image; images of the same shard follow each other.
        batch_size: images per batch and process.
        workers: number of workers of the DataLoader.
        ranks: number of processes, and the number of this process.
        shuffle: whether to shuffle; else shards and images keep their order.
        seed: seed of the order.
    """

    def __init__(
        self,
        shards: Sequence[int],
        batch_size: int,
        workers: int,
        ranks: Ranks = (1, 0),
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(len(shards), ranks, shuffle, seed)
        starts = np.flatnonzero(np.diff(np.asarray(shards))) + 1
        self.members = np.split(np.arange(len(shards)), starts)
        self.batch_size, self.workers = batch_size, max(1, workers)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        processes, rank = self.ranks
        streams, count = processes * self.workers, len(self.members)
        if count < streams:  # so few shards that every worker can hold all of them
            return super().__iter__()
        dealt = random.permutation(count) if self.shuffle else np.arange(count)
        every = [[self.members[one] for one in dealt[start::streams]] for start in range(streams)]
        own = self._leveled(every)[rank * self.workers : (rank + 1) * self.workers]
        orders = [self._mixed(shards, random) for shards in own]
        whole = [len(order) // self.batch_size * self.batch_size for order in orders]
        pairs = list(zip(orders, whole, strict=True))
        batches = [order[:end].reshape(-1, self.batch_size) for order, end in pairs]
        turns = [batch for turn in zip_longest(*batches) for batch in turn if batch is not None]
        order = np.concatenate([*turns, *(order[end:] for order, end in pairs)])
        return iter(order[: len(self)].tolist())

    def _leveled(self, streams: list[list[NDArray[np.int64]]]) -> list[list[NDArray[np.int64]]]:
        """Move images between workers, so that all processes have equally many images.

        Surplus images are cut from the end of the last shards of a process.
        """
        processes = self.ranks[0]
        if processes == 1:
            return streams
        shares = [len(range(rank, self.count, processes)) for rank in range(processes)]
        spare: list[NDArray[np.int64]] = []
        surplus = []
        for rank, share in enumerate(shares):
            own = streams[rank * self.workers : (rank + 1) * self.workers]
            surplus.append(sum(map(len, chain.from_iterable(own))) - share)
            while surplus[rank] > 0:
                last = max((stream for stream in own if stream), key=len)
                cut = min(surplus[rank], len(last[-1]))
                spare.append(last[-1][len(last[-1]) - cut :])
                last[-1] = last[-1][: len(last[-1]) - cut]
                if not len(last[-1]):
                    last.pop()
                surplus[rank] -= cut
        left = np.concatenate([*spare, np.empty(0, np.int64)])
        for rank, lacking in enumerate(surplus):
            if lacking < 0:
                streams[(rank + 1) * self.workers - 1].append(left[:-lacking])
                left = left[-lacking:]
        return streams

    def _mixed(
        self, shards: list[NDArray[np.int64]], random: np.random.Generator
    ) -> NDArray[np.int64]:
        windows = [np.empty(0, np.int64)]
        for start in range(0, len(shards), WINDOW):
            window = np.concatenate(shards[start : start + WINDOW])
            windows.append(random.permutation(window) if self.shuffle else window)
        return np.concatenate(windows)


class Draw(NamedTuple):
    """Random numbers for this process's images of a batch that several processes share.

    Every process draws the numbers of the whole batch, so that each image gets the same numbers for
    any number of processes.

    Attributes:
        pictures: number of images in the whole batch.
        own: the positions of this process's images in the batch.
    """

    pictures: int
    own: slice = slice(None)

    def uniform(self, low: float, high: float, rows: int = 1) -> Tensor:
        """Draw numbers between `low` and `high`, float32 `[rows, B]`, B images of this process."""
        return (torch.rand(rows * self.pictures) * (high - low) + low).view(rows, -1)[:, self.own]
