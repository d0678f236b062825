"""How long is left of what is being counted."""

import time


class Pace:
    """The time left of a count, by how fast it has gone since it was first told of."""

    def __init__(self) -> None:
        self._done = self._first = self._total = 0
        self._since = 0.0

    def left(self, done: int, total: int) -> str:
        """ "1:02:05", or nothing while there is no saying. A count that falls, or of another total,
        is a new one."""
        now = time.monotonic()
        if not self._since or done < self._done or total != self._total:
            self._since, self._first = now, done
        self._done, self._total = done, total
        if done <= self._first or not total:
            return ""
        return _clock((total - done) * (now - self._since) / (done - self._first))


def _clock(seconds: float) -> str:
    """3725 -> "1:02:05"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
