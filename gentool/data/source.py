"""What a data set is to the rest of gentool: examples by index, or records shard by shard."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

import numpy as np

from gentool.data.decode import decode
from gentool.errors import BadDataError

WINDOW = 1024  # records of a shard that are shuffled together, and re-read when a run is resumed


@dataclass(frozen=True)
class Example:
    """One record of a data set."""

    key: str  # names the record in messages: "cats/12.png", "train.parquet row 17"
    image: np.ndarray  # uint8 [H, W, C], C = 1 (grey) or 3 (RGB)
    caption: str = ""
    label: int | None = None  # index into Source.labels


@dataclass(frozen=True)
class RawImage:
    """One record before decoding."""

    key: str
    data: bytes
    caption: str
    label: int | None

    def example(self) -> Example:
        """The record decoded. Raises BadDataError, naming it, if the image is damaged."""
        return Example(self.key, decode(self.data, self.key), self.caption, self.label)


@dataclass(frozen=True)
class Record:
    """A record of a shard that is not read before it is asked for."""

    number: int  # in its shard, from 0
    key: str
    raw: Callable[[], RawImage]  # raises BadDataError if it cannot be read; safe in threads


class Source(Protocol):
    """Examples by index. The same index always gives the same example."""

    @property
    def size(self) -> int | None:
        """How many; None: endless."""
        ...

    labels: tuple[str, ...]  # class names; empty where there are none
    fingerprint: str  # changes when the data does

    def __getitem__(self, index: int) -> Example:
        """Example `index`. Raises BadDataError, naming the record, if it cannot be read."""
        ...


class Sharded(ABC):
    """Records shard by shard, for data too large to be listed: nothing is known of their number."""

    size: int | None = None
    shards: int
    labels: tuple[str, ...] = ()
    fingerprint: str

    @abstractmethod
    def records(self, shard: int, start: int = 0) -> Iterator[Record]:
        """The records of `shard` in order, from record number `start` on.

        Raises BadDataError, naming the shard, where the rest of it cannot be read.
        """

    def windows(self, shard: int, first: int = 0) -> Iterator[tuple[int, list[Record]]]:
        """The records of `shard` in windows of WINDOW numbers, each with its own number.

        Raises BadDataError as `records` does, after the records before the damage were given.
        """
        window, found = first, list[Record]()
        try:
            for record in self.records(shard, first * WINDOW):
                if found and record.number // WINDOW != window:
                    yield window, found
                    found = []
                window = record.number // WINDOW
                found.append(record)
        except BadDataError:
            if found:
                yield window, found
            raise
        if found:
            yield window, found


Data = Source | Sharded


class Window:
    """Some records of a sharded source, by index."""

    def __init__(self, source: Sharded, records: Sequence[Record]) -> None:
        self.records = records
        self.size: int | None = len(records)
        self.labels = source.labels
        self.fingerprint = source.fingerprint

    def __getitem__(self, index: int) -> Example:
        return self.records[index].raw().example()


def consecutive(data: Data, start: int, n: int) -> list[Example]:
    """The n examples from number `start` on, or as many as there are. Raises BadDataError."""
    if isinstance(data, Sharded):
        records = chain.from_iterable(map(data.records, range(data.shards)))
        return [record.raw().example() for record in islice(records, start, start + n)]
    end = start + n if data.size is None else min(start + n, data.size)
    return [data[index] for index in range(start, end)]


def extent(data: Data) -> str:
    """How much there is, in words, as far as it is known without reading all of it."""
    if isinstance(data, Sharded):
        return f"{data.shards} shards"
    return "endless examples" if data.size is None else f"{data.size} examples"
