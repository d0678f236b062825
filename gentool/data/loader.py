"""Examples ready for training, decoded ahead in threads, in the stream's order."""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from gentool.data.config import ImageData
from gentool.data.decode import fit
from gentool.data.stream import Cursor, Place, Stream
from gentool.errors import BadDataError
from gentool.rng import generator

logger = logging.getLogger(__name__)

REPORTED = 5  # skipped records that are named; the others are only counted
CAP_SEEN = 1000  # records after which the share of skipped ones is judged
CAP_PERCENT = 1
ON_BAD = "gentool data check lists all such records; --set data.on_error=skip leaves them out"


@dataclass(frozen=True)
class Loaded:
    """One example as training sees it."""

    key: str
    epoch: int
    index: int  # of the record in its source; in its window, if that has shards
    image: torch.Tensor  # float32 [C, H, W] in [-1, 1]
    label: int | None
    caption: str
    rng: torch.Generator  # crop and flip are drawn; timestep and noise are drawn from it next


class Loader:
    """Batches of a stream. `skipped` counts the unreadable records that were replaced.

    With `on_error = "skip"` the next readable record of the source or window stands in for an
    unreadable one. The stream does not move for it: all processes stay in step and the cursor needs
    no more than counts. `report` is told of the first few.
    """

    def __init__(
        self,
        stream: Stream,
        config: ImageData,
        report: Callable[[str], None] = logger.warning,
    ) -> None:
        self.stream = stream
        self.config = config
        self.report = report
        self.seen = 0
        self.skipped = 0
        self._handed_out = stream.cursor
        self._ahead: deque[tuple[Future[tuple[Loaded, str]], Cursor]] = deque()
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="decode")

    @property
    def cursor(self) -> Cursor:
        """The stream's cursor after the last example handed out, and the counts so far."""
        return {**self._handed_out, "seen": self.seen, "skipped": self.skipped}

    def seek(self, cursor: Cursor) -> None:
        """Go on from `cursor`; what was decoded ahead is dropped."""
        for future, _ in self._ahead:
            future.cancel()
        self._ahead.clear()
        self.stream.seek(cursor)
        self._handed_out = self.stream.cursor
        self.seen, self.skipped = cursor["seen"], cursor["skipped"]

    def next(self, n: int) -> list[Loaded]:
        """The next n examples; as many again are then decoded in the background.

        Raises BadDataError for a record that cannot be read, with `on_error = "skip"` only when
        there are too many of them.
        """
        self._decode_ahead(n)
        batch = []
        for _ in range(n):
            future, cursor = self._ahead.popleft()
            loaded, problem = future.result()
            self._handed_out = cursor
            self._count(problem)
            batch.append(loaded)
        self._decode_ahead(n)
        return batch

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _decode_ahead(self, n: int) -> None:
        while len(self._ahead) < n:
            [place] = self.stream.next(1)
            future = self._threads.submit(self._load, place)
            self._ahead.append((future, self.stream.cursor))

    def _load(self, place: Place) -> tuple[Loaded, str]:
        """The example of one place, and what was wrong with its own record, if anything."""
        rng = generator("train", self.stream.seed, place.epoch, *place.identity)
        size = place.source.size
        problem = place.problem
        if problem and self.config.on_error == "stop":
            raise BadDataError(problem, ON_BAD)
        for step in range(min(size or CAP_SEEN, CAP_SEEN)):
            record = place.index + step if size is None else (place.index + step) % size
            try:
                example = place.source[record]
            except BadDataError as error:
                if self.config.on_error == "stop":
                    raise BadDataError(str(error), ON_BAD) from error
                problem = problem or str(error)
                continue
            pixels = torch.from_numpy(fit(example.image, self.config, rng))
            image = pixels.permute(2, 0, 1).contiguous().float() / 127.5 - 1
            loaded = Loaded(
                example.key, place.epoch, record, image, example.label, example.caption, rng
            )
            return loaded, problem
        raise BadDataError(f"{step + 1} records in a row cannot be read; the first: {problem}")

    def _count(self, problem: str) -> None:
        self.seen += 1
        if problem:
            self.skipped += 1
            if self.skipped <= REPORTED:
                self.report(f"skipped: {problem}")
        if self.seen >= CAP_SEEN and 100 * self.skipped > CAP_PERCENT * self.seen:
            raise BadDataError(
                f"{self.skipped} of {self.seen} records cannot be read, more than {CAP_PERCENT} %",
                "gentool data check lists them",
            )
