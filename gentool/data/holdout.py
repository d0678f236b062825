"""Keeping a part of the data for validation."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice

import torch

from gentool.data.config import ImageData
from gentool.data.images import open_images
from gentool.data.source import Data, Example, Record, Sharded, Source, Window
from gentool.errors import BadDataError
from gentool.rng import generator

MOST = 512  # records held out at the most
SHARE = 20  # one in so many
SHARDS = 32  # shards that records are held out of, at the most


class Subset:
    """Some records of a source."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = indices
        self.size: int | None = len(indices)
        self.labels = source.labels
        self.fingerprint = source.fingerprint

    def __getitem__(self, index: int) -> Example:
        return self.source[self.indices[index]]


class Trained(Sharded):
    """The records of a sharded source that are not held out, under their own numbers."""

    def __init__(self, source: Sharded) -> None:
        self.source = source
        self.shards = source.shards
        self.labels = source.labels
        self.fingerprint = source.fingerprint

    def records(self, shard: int, start: int = 0) -> Iterator[Record]:
        for record in self.source.records(shard, start):
            if not held_out(record.number, shard, self.shards):
                yield record


class HeldOut:
    """The records that are held out of a sharded source; looked up when first asked for."""

    def __init__(self, source: Sharded, config: ImageData) -> None:
        self.source = source
        self.config = config
        self.labels = source.labels
        self.fingerprint = source.fingerprint

    @property
    def size(self) -> int | None:
        return self._window.size

    def __getitem__(self, index: int) -> Example:
        return self._window[index]

    @cached_property
    def _window(self) -> Window:
        """Raises BadDataError for a shard that cannot be read, unless those are skipped."""
        found = []
        shards = self.source.shards
        for shard in range(min(shards, SHARDS)):
            try:
                for record in islice(self.source.records(shard), SHARE * _each(shards)):
                    if held_out(record.number, shard, shards):
                        found.append(record)
            except BadDataError:
                if self.config.on_error == "stop":
                    raise
        if not found:
            raise BadDataError("nothing to validate on: the first shards hold no record")
        return Window(self.source, found)


def held_out(number: int, shard: int, shards: int) -> bool:
    """Whether record `number` of `shard` is for validation: a rule that needs no other record.

    One in SHARE of the first records of the first SHARDS shards, MOST in all; beginning elsewhere
    in each shard, so that small shards give no more than their share.
    """
    within = shard < SHARDS and number < SHARE * _each(shards)
    return within and (number + shard) % SHARE == 0


def _each(shards: int) -> int:
    """Records held out of one shard at the most."""
    return MOST // min(shards, SHARDS)


def train_and_validation(config: ImageData) -> tuple[Data, Source]:
    """The data to train on, and what is held out: the `test` split of scenes, else 5 % (≤ 512).

    Which records are held out depends on their number alone. A single image serves as both, except
    in shards, whose records nobody counts.
    """
    source = open_images(config)
    if isinstance(source, Sharded):
        return Trained(source), HeldOut(source, config)
    if source.size is None:
        from gentool.data.scenes import Scenes

        return source, Scenes("test")
    order = torch.randperm(source.size, generator=generator("hold out")).tolist()
    n = min(MOST, source.size // SHARE + (source.size < SHARE))
    if source.size == 1:
        return source, source
    return Subset(source, sorted(order[n:])), Subset(source, sorted(order[:n]))
