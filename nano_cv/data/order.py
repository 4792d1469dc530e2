"""In which order training meets the pictures of shards: at random, and each shard read once."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, DistributedSampler

WINDOW = 4  # shards whose pictures are mixed; store.HELD must be more


class ShardOrder(DistributedSampler[Any]):
    """An order in which each worker of a DataLoader reads shards of its own, a few at a time.

    The shards are dealt to the workers of all processes; a worker mixes the pictures of `WINDOW`
    shards, and the batches of all workers follow each other in turn, as a DataLoader hands them
    out. It depends on seed, epoch, and the numbers of workers and processes only.

    Args:
        dataset: as long as `shards`.
        shards: number of the shard of each picture; those of one shard follow each other.
        batch_size: pictures a batch.
        workers: of the DataLoader.
        ranks: how many processes train, and which this is.
        shuffle: whether to mix; else shards and pictures keep their order.
        seed: of the order.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        shards: Sequence[int],
        batch_size: int,
        workers: int,
        ranks: tuple[int, int] = (1, 0),
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, *ranks, shuffle=shuffle, seed=seed)
        starts = np.flatnonzero(np.diff(np.asarray(shards))) + 1
        self.members = np.split(np.arange(len(shards)), starts)
        self.batch_size, self.workers = batch_size, max(1, workers)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        streams, count = self.num_replicas * self.workers, len(self.members)
        if count < streams:  # so few that every worker may hold all of them
            return super().__iter__()
        dealt = random.permutation(count) if self.shuffle else np.arange(count)
        first = self.rank * self.workers
        orders = [
            self._mixed(dealt[stream::streams], random)
            for stream in range(first, first + self.workers)
        ]
        whole = [len(order) // self.batch_size * self.batch_size for order in orders]
        pairs = list(zip(orders, whole, strict=True))
        batches = [order[:end].reshape(-1, self.batch_size) for order, end in pairs]
        turns = [batch for turn in zip_longest(*batches) for batch in turn if batch is not None]
        order = np.concatenate([*turns, *(order[end:] for order, end in pairs)])
        # Processes take equally many steps, or they would wait for each other: a few pictures of a
        # large share are left out, or of a small one met twice.
        return iter(np.resize(order, self.num_samples).tolist())

    def _mixed(self, shards: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        windows = []
        for start in range(0, len(shards), WINDOW):
            window = np.concatenate(
                [self.members[shard] for shard in shards[start : start + WINDOW]]
            )
            windows.append(random.permutation(window) if self.shuffle else window)
        return np.concatenate(windows)
