"""What a data set is to the rest of gentool: examples by index, or records shard by shard."""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from gentool.data.decode import decode
from gentool.errors import BadDataError, MachineError, UsageError

WINDOW = 1024  # records of a shard that are shuffled together, and re-read when a run is resumed
BLOCK = 1 << 14  # bytes of either end of a file that its digest covers

Record_co = TypeVar("Record_co", covariant=True)


@dataclass(frozen=True)
class Example:
    """One record of a data set of images."""

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


class Source(Protocol[Record_co]):
    """Records by index: `Example`s or `Text`s. The same index always gives the same record."""

    @property
    def size(self) -> int | None:
        """How many; None: endless."""
        ...

    labels: tuple[str, ...]  # class names; empty where there are none
    fingerprint: str  # changes when the data does

    def __getitem__(self, index: int) -> Record_co:
        """Record `index`. Raises BadDataError, naming it, if it cannot be read."""
        ...


class Joined(Generic[Record_co]):
    """Several sources one after the other."""

    def __init__(self, sources: Sequence[Source[Record_co]], specs: Sequence[str]) -> None:
        if any(source.size is None for source in sources):
            raise UsageError("scenes are endless and cannot be joined with other data")
        for source, spec in zip(sources, specs, strict=True):
            if source.labels != sources[0].labels:
                raise BadDataError(f"{spec} has other classes than {specs[0]}")
        self.sources = sources
        self.labels = sources[0].labels
        self.fingerprint = "+".join(source.fingerprint for source in sources)
        self._ends = list(accumulate(source.size or 0 for source in sources))
        self.size: int | None = self._ends[-1]

    def __getitem__(self, index: int) -> Record_co:
        source, number = self.place(index)
        return source[number]

    def place(self, index: int) -> tuple[Source[Record_co], int]:
        """The source that record `index` is in, and its number there."""
        which = bisect_right(self._ends, index)
        return self.sources[which], index - (self._ends[which - 1] if which else 0)


class Subset(Generic[Record_co]):
    """Some records of a source."""

    def __init__(
        self, source: Source[Record_co], indices: Sequence[int] | np.ndarray, empty: int = 0
    ) -> None:
        """empty: how many were left out because there is nothing in them."""
        self.source = source
        self.indices = indices
        self.empty = empty
        self.size: int | None = len(indices)
        self.labels = source.labels
        self.fingerprint = source.fingerprint

    def __getitem__(self, index: int) -> Record_co:
        return self.source[self.number(index)]

    def number(self, index: int) -> int:
        """What record `index` is in the source."""
        return int(self.indices[index])


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


def consecutive(data: Data, start: int, n: int) -> list[Any]:
    """The n records from number `start` on, or as many as there are. Raises BadDataError."""
    if isinstance(data, Sharded):
        records = chain.from_iterable(map(data.records, range(data.shards)))
        return [record.raw().example() for record in islice(records, start, start + n)]
    end = start + n if data.size is None else min(start + n, data.size)
    return [data[index] for index in range(start, end)]


def extent(data: Data) -> str:
    """How much there is, in words, as far as it is known without reading all of it."""
    if isinstance(data, Sharded):
        return f"{data.shards} shards"
    if isinstance(data, Subset) and data.empty:
        return f"{data.size} examples, {data.empty} empty ones left out"
    return "endless examples" if data.size is None else f"{data.size} examples"


def digest(paths: Sequence[Path], *settings: str) -> str:
    """Of each file's name, size and both ends; not of all its bytes, which may be terabytes.

    settings: what else the records depend on, such as columns. Raises MachineError.
    """
    made = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                made.update(json.dumps([path.name, size]).encode())
                file.seek(0)
                made.update(file.read(BLOCK))
                file.seek(max(0, size - BLOCK))
                made.update(file.read(BLOCK))
        except OSError as error:
            raise MachineError(f"cannot read {path}: {error.strerror}") from error
    if settings:
        made.update(json.dumps(settings).encode())
    return made.hexdigest()
