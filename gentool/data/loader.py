"""Examples ready for training, prepared ahead in threads, in the stream's order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from typing import Generic, Protocol, TypeVar

import torch

from gentool.data.source import Sharded, Source, Window
from gentool.data.stream import Cursor, Place, Stream
from gentool.errors import BadDataError
from gentool.rng import generator

REPORTED = 5  # skipped records that are named; the others are only counted
NEAR = 64  # records of a window that are tried before other shards
CAP_SEEN = 1000  # records after which the share of skipped ones is judged
CAP_PERCENT = 1
ON_BAD = (
    "gentool data check lists all such records; "
    "--set data.on_error=skip (of eval: --on-error skip) leaves them out"
)


class Keyed(Protocol):
    """Anything that can be named in a message."""

    @property
    def key(self) -> str: ...


T = TypeVar("T", bound=Keyed)
Prepare = Callable[[Source, int, torch.Generator], T]
"""Reads record `index` of a source and makes of it what a batch is collated from, with draws from
the generator. Raises BadDataError, and TooLong for a sound record that there is no room for."""


class TooLong(BadDataError):
    """A record that is passed over whatever `on_error` says, and counted by itself."""


class Section(Protocol):
    """What the loader reads of a [data] section."""

    on_error: str
    workers: int


@dataclass(frozen=True)
class Prepared(Generic[T]):
    """One example as training sees it."""

    value: T  # what `prepare` returned
    epoch: int
    own: bool  # of the record asked for; else it stands in for one that is passed over
    rng: torch.Generator  # after the draws of `prepare`; timestep and noise are drawn from it next

    @property
    def key(self) -> str:
        """The record's name."""
        return self.value.key


class Loader(Generic[T]):
    """Batches of a stream. `skipped` counts the unreadable records that were replaced, `too_long`
    those that there was no room for.

    The next usable record of the source or window stands in for one that is passed over, or where
    a window has none the first of the next shard; with `on_error = "stop"` an unreadable one is
    not. The stream does not move for it: all processes stay in step and the cursor needs no more
    than counts. `report` is told of the first few.
    """

    def __init__(
        self,
        stream: Stream,
        prepare: Prepare[T],
        section: Section,
        report: Callable[[str], None],
    ) -> None:
        self.stream = stream
        self.prepare = prepare
        self.on_error = section.on_error
        self.report = report
        self.seen = 0
        self.skipped = 0
        self.too_long = 0
        self._handed_out = stream.cursor
        self._ahead: deque[tuple[Future[tuple[Prepared[T], BadDataError | None]], Cursor]] = deque()
        self._threads = ThreadPoolExecutor(section.workers, thread_name_prefix="prepare")

    @property
    def cursor(self) -> Cursor:
        """The stream's cursor after the last example handed out, and the counts so far."""
        counts = {"seen": self.seen, "skipped": self.skipped, "too_long": self.too_long}
        return {**self._handed_out, **counts}

    def seek(self, cursor: Cursor) -> None:
        """Go on from `cursor`; what was prepared ahead is dropped."""
        for future, _ in self._ahead:
            future.cancel()
        self._ahead.clear()
        self.stream.seek(cursor)
        self._handed_out = self.stream.cursor
        self.seen, self.skipped = cursor["seen"], cursor["skipped"]
        self.too_long = cursor["too_long"]

    def next(self, n: int) -> list[Prepared[T]]:
        """The next n examples; as many again are then prepared in the background.

        Raises BadDataError for a record that cannot be read, with `on_error = "skip"` only when
        there are too many of them.
        """
        self._prepare_ahead(n)
        batch = []
        for _ in range(n):
            future, cursor = self._ahead.popleft()
            loaded, problem = future.result()
            self._handed_out = cursor
            self._count(problem)
            batch.append(loaded)
        self._prepare_ahead(n)
        return batch

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _prepare_ahead(self, n: int) -> None:
        while len(self._ahead) < n:
            [place] = self.stream.next(1)
            future = self._threads.submit(self._load, place)
            self._ahead.append((future, self.stream.cursor))

    def _load(self, place: Place) -> tuple[Prepared[T], BadDataError | None]:
        """The example of one place, and what was wrong with its own record, if anything."""
        rng = generator("train", self.stream.seed, place.epoch, *place.identity)
        problem = BadDataError(place.problem) if place.problem else None
        if problem and self.on_error == "stop":
            raise BadDataError(str(problem), ON_BAD)
        tried = 0
        for source, index in islice(self._in_turn(place), CAP_SEEN):
            tried += 1
            try:
                value = self.prepare(source, index, rng)
            except BadDataError as error:
                if self.on_error == "stop" and not isinstance(error, TooLong):
                    raise BadDataError(str(error), ON_BAD) from error
                problem = problem or error
                continue
            return Prepared(value, place.epoch, problem is None, rng), problem
        raise BadDataError(f"{tried} records in a row cannot be used; the first: {problem}")

    def _in_turn(self, place: Place) -> Iterator[tuple[Source, int]]:
        """The record of a place, and those that may stand in for it."""
        size, data = place.source.size, self.stream.source
        if size is None:
            yield from ((place.source, place.index + step) for step in count())
        else:
            near = min(size, NEAR) if isinstance(data, Sharded) else size
            yield from ((place.source, (place.index + step) % size) for step in range(near))
        if isinstance(data, Sharded):  # none of a window could be used, which may be of one record
            for step in range(data.shards):
                shard = (place.identity[0] + 1 + step) % data.shards  # its own comes last
                with suppress(BadDataError):  # a damaged one is used up to where it is
                    yield from ((Window(data, [record]), 0) for record in data.records(shard))

    def _count(self, problem: BadDataError | None) -> None:
        self.seen += 1
        if isinstance(problem, TooLong):
            self.too_long += 1
            if self.too_long <= REPORTED:
                self.report(f"left out: {problem}")
        elif problem:
            self.skipped += 1
            if self.skipped <= REPORTED:
                self.report(f"skipped: {problem}")
        if self.seen >= CAP_SEEN and 100 * self.skipped > CAP_PERCENT * self.seen:
            raise BadDataError(
                f"{self.skipped} of {self.seen} records cannot be read, more than {CAP_PERCENT} %",
                "gentool data check lists them",
            )
