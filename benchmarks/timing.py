"""Timing several ways of doing the same in turns, so that what else the machine does hits all."""

import statistics
import time
from collections.abc import Callable

import torch


def alternate(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median seconds of each side, all taken in turns after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            synchronize()
            started = time.perf_counter()
            run()
            synchronize()
            if turn:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
