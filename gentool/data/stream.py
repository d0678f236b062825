"""The order in which training sees a data set: shuffled by (seed, epoch), resumable anywhere."""

import torch

from gentool.data.source import Source
from gentool.rng import generator


class Stream:
    """Epoch after epoch of a source, each in its own order; an endless source in index order.

    Of every `world` positions, process `rank` takes one. The cursor counts positions of all
    processes, so it is the same on each of them and holds for another number of them.
    """

    def __init__(self, source: Source, seed: int, rank: int = 0, world: int = 1) -> None:
        self.size = source.size
        self.seed = seed
        self.rank = rank
        self.world = world
        self._epoch = 0
        self._offset = 0
        self._order: tuple[int, torch.Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    @property
    def cursor(self) -> dict[str, int]:
        """Where the stream stands. Shard and window stay 0: the sources have random access."""
        return {"epoch": self._epoch, "shard": 0, "window": 0, "offset": self._offset}

    def seek(self, cursor: dict[str, int]) -> None:
        """Go on from `cursor`."""
        self._epoch, self._offset = self._position(cursor["epoch"], cursor["offset"])

    def next(self, n: int) -> list[tuple[int, int]]:
        """This process's share, n (epoch, index) pairs, of the next n * world positions."""
        pairs = []
        for _ in range(n):
            epoch, offset = self._position(self._epoch, self._offset + self.rank)
            pairs.append((epoch, self._index(epoch, offset)))
            self._epoch, self._offset = self._position(self._epoch, self._offset + self.world)
        return pairs

    def _position(self, epoch: int, offset: int) -> tuple[int, int]:
        """`offset` carried over the ends of epochs."""
        if self.size is None:
            return epoch, offset
        return epoch + offset // self.size, offset % self.size

    def _index(self, epoch: int, offset: int) -> int:
        if self.size is None:
            return offset
        if self._order[0] != epoch:
            rng = generator("order", self.seed, epoch)
            self._order = (epoch, torch.randperm(self.size, generator=rng))
        return int(self._order[1][offset])
