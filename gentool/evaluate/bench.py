"""Quality, time and memory for numbers of steps, measured side by side."""

import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gentool.checkpoint.load import Loaded
from gentool.device import pick_device
from gentool.errors import UsageError, nearest
from gentool.evaluate.checkpoint import METRICS, measure
from gentool.evaluate.request import Request
from gentool.sampling import draw_samples

OF_NO_SAMPLES = ("loss", "bpd")  # metrics that do not depend on how one samples


@dataclass
class TimedRequest(Request):
    """Keeps how long its samples took to draw, without what is measured on them."""

    seconds: float = 0.0

    def drawn(self, draw: Callable[..., Iterator[Any]], **more: Any) -> Iterator[Any]:
        batches = super().drawn(draw, **more)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch


def quality_metric(loaded: Loaded, name: str | None) -> str | None:
    """The metric to measure quality by: the one named, else that of scenes where they are what the
    model makes, else none. Raises UsageError for one that does not depend on the samples."""
    kind = Request(loaded, None, None, 1, 0, "cpu", 1, None).kind
    known = [metric for metric in METRICS[kind] if metric not in OF_NO_SAMPLES]
    if name is None:
        return "scenes" if "scenes" in known and "scenes" in loaded.config.data.spec else None
    if name not in known:
        raise UsageError(f"no metric {name!r} of samples", nearest(name, known))
    return name


def bench(request: TimedRequest, metric: str | None, repeats: int, by: str) -> dict[str, Any]:
    """One record: samples drawn `repeats` times with seeds one after the other, what they are
    worth, how long they took and how much they called and kept. by: the library that draws."""
    loaded = request.loaded
    device = pick_device(request.device)
    values, seconds = [], []
    name: str | None = None
    _reset_peak(device)
    with _counted(loaded.network) as calls:
        for repeat in range(repeats):
            timed = replace(request, seed=request.seed + repeat, seconds=0.0)
            if metric:
                figure = measure(timed, [metric])[0]
                name = figure.metric
                values.append(math.nan if figure.value is None else figure.value)
            else:
                _draw(timed)
            seconds.append(timed.seconds / request.num)
    return {
        "library": by,
        "backend": loaded.run_config.backend,
        "checkpoint": str(loaded.folder),
        "checkpoint_step": loaded.step,
        "parameters": sum(p.numel() for p in loaded.network.parameters()),
        "steps": request.settings.steps,
        "sampler": getattr(request.settings, "sampler", None),
        "metric": name,
        "quality": _mean(values),
        "quality_deviation": _deviation(values),
        "seconds_per_sample": statistics.median(seconds),
        "seconds_least": min(seconds),
        "seconds_most": max(seconds),
        "calls_per_sample": calls[0] / (repeats * request.num) or None,
        "peak_memory_mb": round(_peak(device) / 2**20, 1),
        "num": request.num,
        "repeats": repeats,
        "seed": request.seed,
        "batch_size": request.batch_size,
        "device": device.type,
        "precision": request.precision or "default",
        "threads": torch.get_num_threads(),
    }


def warm_up(request: TimedRequest) -> None:
    """Draw one batch for nothing: the first is slower than those after it."""
    _draw(replace(request, num=min(request.num, request.batch_size)))


def varied(settings: Any, steps: Sequence[int], samplers: Sequence[str]) -> list[Any]:
    """`settings` with every sampler and number of steps; no sampler named: its own.

    Raises UsageError for a sampler that the backend has not.
    """
    if samplers and not hasattr(settings, "sampler"):
        raise UsageError(f"--sampler {','.join(samplers)}: this backend has but one")
    field = type(settings).__dataclass_fields__.get("sampler")
    for sampler in samplers:
        if field and sampler not in field.metadata["choices"]:
            raise UsageError(
                f"--sampler cannot be {sampler!r}", nearest(sampler, field.metadata["choices"])
            )
    each = [replace(settings, sampler=sampler) for sampler in samplers] or [settings]
    return [replace(one, steps=n) for one in each for n in steps]


def _draw(request: TimedRequest) -> None:
    if request.kind == "images":
        for _ in request.drawn(draw_samples):
            pass
    else:
        assert request.texts


@contextmanager
def _counted(network: nn.Module) -> Iterator[list[int]]:
    """How many rows the network is called with in the block, in a list of one."""
    calls = [0]

    def count(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        calls[0] += len(arguments[0])

    hook = network.register_forward_pre_hook(count)
    try:
        yield calls
    finally:
        hook.remove()


def _mean(values: Sequence[float]) -> float | None:
    found = [value for value in values if math.isfinite(value)]
    return statistics.mean(found) if found else None


def _deviation(values: Sequence[float]) -> float | None:
    found = [value for value in values if math.isfinite(value)]
    return statistics.stdev(found) if len(found) > 1 else None


def _reset_peak(device: torch.device) -> None:
    """Forget the most memory that there was. On a CPU only Linux can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass  # then it is the most since the start


def _peak(device: torch.device) -> int:
    """The most memory since, in bytes: the device's own, or that of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
