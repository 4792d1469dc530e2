"""Order of the images of a training that reads them from shards."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from nano_cv.data.order import Order, Ranks

WINDOW = 4  # number of shards whose images are mixed; store.MAX_SHARDS must be larger


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
