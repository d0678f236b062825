"""Batches of so many tokens, from examples of about one length: little of them is padding."""

from typing import Generic, Protocol, TypeVar

import torch

from gentool.data.loader import Keyed, Loader, Prepared
from gentool.data.rows import batches
from gentool.data.stream import Cursor
from gentool.rng import generator

WINDOW = 16  # batches' worth of examples that are sorted together, and re-read on resuming
CHUNK = 64  # examples read at a time
TRIES = 8  # chunks more that are read to fill a window's last batch


class Measured(Keyed, Protocol):
    """An example of which it is known how much room it takes."""

    @property
    def size(self) -> int:
        """Tokens that every example of its batch is padded to, if it is the largest."""
        ...


T = TypeVar("T", bound=Measured)


class Buckets(Generic[T]):
    """Batches of `tokens` tokens at the most, padding included, but of one example at least.

    Examples are taken from the stream in windows, of which each is sorted by size and cut into
    batches. These come in an order that depends on the seed and the window's place alone. Every
    process reads all windows and takes each `world`-th batch, so the cursor is the same on all of
    them and holds for another number of them.
    """

    def __init__(self, loader: Loader[T], tokens: int, rank: int = 0, world: int = 1) -> None:
        """loader: of a stream that is not shared out among processes."""
        self.loader, self.tokens = loader, tokens
        self.rank, self.world = rank, world
        self.examples = 0  # seen so far, by all processes
        self._start = loader.cursor  # of the window
        self._batches: list[list[Prepared[T]]] = []  # of the window, in their order
        self._taken = 0  # of these, by all processes

    @property
    def cursor(self) -> Cursor:
        """Where the window begins, and how many of its batches are taken."""
        return {**self._start, "batch": self._taken, "examples": self.examples}

    def seek(self, cursor: Cursor) -> None:
        """Go on from `cursor`."""
        self.loader.seek(cursor)
        self._start = self.loader.cursor
        self._batches = self._window() if cursor["batch"] else []
        self._taken, self.examples = cursor["batch"], cursor["examples"]

    def next(self) -> list[Prepared[T]]:
        """This process's next batch. Raises as the loader."""
        mine: list[Prepared[T]] = []
        for turn in range(self.world):
            if self._taken == len(self._batches):
                self._start = self.loader.cursor
                self._batches, self._taken = self._window(), 0
            batch = self._batches[self._taken]
            if turn == self.rank:
                mine = batch
            self._taken += 1
            self.examples += len(batch)
        return mine

    def _window(self) -> list[list[Prepared[T]]]:
        found: list[Prepared[T]] = []
        sizes: list[int] = []
        tries = 0
        while tries <= TRIES:
            found += self.loader.next(CHUNK)
            sizes = [example.value.size for example in found]
            if sum(sizes) < WINDOW * self.tokens:
                continue
            # The last batch is of what is left: more is read until it is worth a step.
            *_, last = batches(sizes, self.tokens)
            if 2 * len(last) * sizes[last[0]] >= self.tokens:
                break
            tries += 1
        cut = list(batches(sizes, self.tokens))
        seed, place = self.loader.stream.seed, self._start
        parts = (place["epoch"], place["shard"], place["window"], place["offset"])
        order = torch.randperm(len(cut), generator=generator("batches", seed, *parts))
        return [[found[number] for number in cut[i]] for i in order.tolist()]
