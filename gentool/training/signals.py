"""SIGINT and SIGTERM in training: finish the step, save, stop. A second Ctrl-C quits at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """`number` is the signal that asked to stop, 0 as long as none did."""

    def __init__(self) -> None:
        self.number = 0


@contextmanager
def stop_request(report: Callable[[str], None]) -> Iterator[StopRequest]:
    """Note signals instead of dying of them, and say so at once."""
    request = StopRequest()

    def handle(number: int, _frame: FrameType | None) -> None:
        request.number = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            report("Ctrl-C: saving after this step; again to quit without saving")
        else:
            report("SIGTERM: saving after this step")

    # One that the caller has us ignore, as a shell does for a job in the background, stays ignored.
    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {n: signal.signal(n, handle) for n in heard}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
