"""In which order training meets the pictures: the same, however many processes share it."""

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

WINDOW = 4  # shards whose pictures are mixed; store.HELD must be more
Ranks = tuple[int, int]  # how many processes there are, and which this is


class Order(Sampler[int]):
    """A new order in each epoch, of which each process takes every n-th picture.

    So the batches of all processes together are those of a single one. No picture is met twice, so
    the last batch of a process may have one picture less than that of another.

    Args:
        count: of pictures.
        ranks: how many processes there are, and which this is.
        shuffle: whether to mix.
        seed: of the order.
    """

    def __init__(self, count: int, ranks: Ranks = (1, 0), shuffle: bool = True, seed: int = 0):
        self.count, self.ranks, self.shuffle, self.seed, self.epoch = count, ranks, shuffle, seed, 0
        self.left_out = 0

    def leave_out(self, count: int) -> None:
        """End each epoch so many pictures earlier, others each time if they are mixed."""
        self.left_out = count

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; called by Lightning."""
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
    """An order in which each worker of a DataLoader reads shards of its own, a few at a time.

    The shards are dealt to the workers of all processes; a worker mixes the pictures of `WINDOW`
    shards, and the batches of all workers follow each other in turn, as a DataLoader hands them
    out. A process that was dealt too many pictures leaves the last of them to others, so that all
    take equally many steps. The order depends on seed, epoch, and the numbers of workers and
    processes only.

    Args:
        shards: number of the shard of each picture; those of one shard follow each other.
        batch_size: pictures per batch of one process.
        workers: of the DataLoader.
        ranks: how many processes there are, and which this is.
        shuffle: whether to mix; else shards and pictures keep their order.
        seed: of the order.
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
        if count < streams:  # so few that every worker may hold all of them
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
        """The shards of each worker of all processes, so that processes have equally many pictures.

        What a process has too many of is cut from the end of its last shards.
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
    """Random numbers for the pictures of one process out of a batch that several processes share.

    All of them draw the numbers of the whole batch, so that each picture gets the same ones however
    many processes there are.

    Attributes:
        pictures: how many are in the whole batch.
        own: those of this process.
    """

    pictures: int
    own: slice = slice(None)

    def uniform(self, low: float, high: float, rows: int = 1) -> Tensor:
        """Numbers between `low` and `high`, `[rows, B]`."""
        return (torch.rand(rows * self.pictures) * (high - low) + low).view(rows, -1)[:, self.own]
