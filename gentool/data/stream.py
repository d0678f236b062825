"""The order in which training sees a data set: shuffled by (seed, epoch), resumable anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from gentool.data.source import Data, Sharded, Source, Window
from gentool.errors import BadDataError
from gentool.rng import generator

Cursor = dict[str, int]


@dataclass(frozen=True)
class Place:
    """One position of a stream."""

    epoch: int
    source: Source  # the record and those that may stand in for it
    index: int  # of the record in `source`
    identity: tuple[int, ...]  # of the record in the data set: its noise is drawn from it
    problem: str = ""  # what was unreadable on the way here


class Stream(Protocol):
    """Places of a data set, epoch after epoch.

    Of every `world` positions, process `rank` takes one. The cursor counts positions of all
    processes, so it is the same on each of them and holds for another number of them.
    """

    seed: int

    @property
    def source(self) -> Data:
        """What they are places of."""
        ...

    @property
    def cursor(self) -> Cursor:
        """Where the stream stands: epoch, shard (in this epoch's order), window and offset."""
        ...

    def seek(self, cursor: Cursor) -> None:
        """Go on from `cursor`."""
        ...

    def next(self, n: int) -> list[Place]:
        """This process's share, n places, of the next n * world positions."""
        ...


def open_stream(data: Data, seed: int, rank: int = 0, world: int = 1) -> Stream:
    """The stream of a data set, at its beginning."""
    if isinstance(data, Sharded):
        return ShardStream(data, seed, rank, world)
    return IndexStream(data, seed, rank, world)


class IndexStream:
    """A permutation of the whole source each epoch; an endless source in index order."""

    def __init__(self, source: Source, seed: int, rank: int = 0, world: int = 1) -> None:
        self.source = source
        self.seed = seed
        self.rank = rank
        self.world = world
        self._epoch = 0
        self._offset = 0
        self._order: tuple[int, torch.Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    @property
    def cursor(self) -> Cursor:
        return {"epoch": self._epoch, "shard": 0, "window": 0, "offset": self._offset}

    def seek(self, cursor: Cursor) -> None:
        self._epoch, self._offset = self._position(cursor["epoch"], cursor["offset"])

    def next(self, n: int) -> list[Place]:
        places = []
        for _ in range(n):
            epoch, offset = self._position(self._epoch, self._offset + self.rank)
            index = self._index(epoch, offset)
            places.append(Place(epoch, self.source, index, (index,)))
            self._epoch, self._offset = self._position(self._epoch, self._offset + self.world)
        return places

    def _position(self, epoch: int, offset: int) -> tuple[int, int]:
        """`offset` carried over the ends of epochs."""
        size = self.source.size
        return (epoch, offset) if size is None else (epoch + offset // size, offset % size)

    def _index(self, epoch: int, offset: int) -> int:
        if self.source.size is None:
            return offset
        if self._order[0] != epoch:
            self._order = (epoch, _permutation(self.source.size, self.seed, epoch))
        return int(self._order[1][offset])


class ShardStream:
    """Shards in an order of (seed, epoch), records shuffled inside fixed windows of each.

    All processes walk over all positions; a record's bytes are read where it is used. A shard that
    cannot be read is passed over, and the next place tells of it.
    """

    def __init__(self, source: Sharded, seed: int, rank: int = 0, world: int = 1) -> None:
        self.source = source
        self.seed = seed
        self.rank = rank
        self.world = world
        self.seek({"epoch": 0, "shard": 0, "window": 0, "offset": 0})

    @property
    def cursor(self) -> Cursor:
        return dict(self._cursor)

    def seek(self, cursor: Cursor) -> None:
        self._cursor = {name: cursor[name] for name in ("epoch", "shard", "window", "offset")}
        self._walk = self._places(**self._cursor)

    def next(self, n: int) -> list[Place]:
        """Raises BadDataError after an epoch in which there was nothing to read."""
        places = []
        for _ in range(n):
            problems, group = [], list[Place]()
            while len(group) < self.world:
                step = next(self._walk)
                if isinstance(step, str):
                    problems.append(step)
                else:
                    place, self._cursor = step
                    group.append(place)
            # All processes learn of a problem at the same position, whoever's turn it was.
            places.append(replace(group[self.rank], problem="; ".join(problems)))
        return places

    def _places(
        self, epoch: int, shard: int, window: int, offset: int
    ) -> Iterator[tuple[Place, Cursor] | str]:
        """Every place from here on, with the cursor after it, and the problems on the way."""
        while True:
            problem = ""
            empty = (shard, window, offset) == (0, 0, 0)
            order = _permutation(self.source.shards, self.seed, epoch).tolist()
            for position in range(shard, self.source.shards):
                try:
                    for place, number, after in self._shard(epoch, order[position], window, offset):
                        empty = False
                        yield place, {
                            "epoch": epoch, "shard": position, "window": number, "offset": after
                        }  # fmt: skip
                except BadDataError as error:
                    problem = str(error)
                    yield problem
                window = offset = 0
            if empty:
                raise BadDataError(
                    problem or "no record to read: the data are empty, or one that is held out"
                )
            epoch, shard = epoch + 1, 0

    def _shard(
        self, epoch: int, shard: int, first: int, offset: int
    ) -> Iterator[tuple[Place, int, int]]:
        """The places of a shard from `offset` in window `first` on; window and offset after."""
        for number, records in self.source.windows(shard, first):
            window = Window(self.source, records)
            order = _permutation(len(records), self.seed, epoch, shard, number).tolist()
            for i in range(offset if number == first else 0, len(records)):
                identity = (shard, records[order[i]].number)
                yield Place(epoch, window, order[i], identity), number, i + 1


def _permutation(n: int, *parts: int) -> torch.Tensor:
    return torch.randperm(n, generator=generator("order", *parts))
