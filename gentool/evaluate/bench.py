"""Quality, time and memory for numbers of steps, measured side by side."""

import math
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gentool.checkpoint.load import Loaded
from gentool.data.scenes.language import LANGUAGES
from gentool.data.source import consecutive
from gentool.data.text import Text
from gentool.device import pick_device, use_bf16
from gentool.errors import UsageError, nearest
from gentool.evaluate.distances import usual_distance
from gentool.evaluate.figures import Figure
from gentool.evaluate.metrics import measure, metrics_of
from gentool.evaluate.pairs import PairRequest
from gentool.evaluate.request import Request
from gentool.protocol import Hypothesis
from gentool.sampling import draw_samples, draw_texts

WARM = 16  # samples, at most, that are drawn for nothing


@dataclass
class TimedRequest(Request):
    """Keeps how long its samples took to draw, without what is measured on them."""

    seconds: float = 0.0
    made: int = 0  # samples

    def drawn(
        self, draw: Callable[..., Iterator[Any]], given: Any = None, **other: Any
    ) -> Iterator[Any]:
        batches = super().drawn(draw, given, **other)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - began
            if batch is None:
                return
            self.made += 1 if isinstance(batch[0], int) else len(batch[0])
            yield batch


@dataclass
class TimedPairs(PairRequest):
    """Keeps how long its sentences took to decode."""

    seconds: float = 0.0
    made: int = 0  # sentences

    def decode(self, pairs: Sequence[Text], settings: Any = None) -> list[list[Hypothesis]]:
        began = time.perf_counter()
        found = super().decode(pairs, settings)
        self.seconds += time.perf_counter() - began
        self.made += len(pairs)
        return found


Timed = TimedRequest | TimedPairs


def quality_metric(request: Request, name: str | None) -> str | None:
    """The metric to measure quality by: the one named, else what there is something to measure it
    with for: features, a judge, scenes, references; else none. Raises UsageError for one that does
    not depend on the samples."""
    known = [each for each, metric in metrics_of(request).items() if metric.bench]
    if name is not None:
        if name not in known:
            raise UsageError(f"no metric {name!r} of samples", nearest(name, known))
        return name
    if request.features:
        return usual_distance(request.compared)
    if request.judge:
        return "judge"
    if request.of_scenes:
        return "scenes"
    return None if request.draws else "quality"


def bench(request: Timed, metric: str | None, repeats: int, by: str) -> dict[str, Any]:
    """One record: samples drawn `repeats` times with seeds one after the other, what they are
    worth, how long they took and how much they called and kept. by: the library that draws."""
    loaded, settings = request.loaded, asdict(request.settings)
    device = pick_device(request.device)
    values, seconds, made = [], [], 0
    name: str | None = None
    _reset_peak(device)
    with _counted(loaded) as calls:
        for repeat in range(repeats):
            timed = replace(request, seed=request.seed + repeat, seconds=0.0, made=0)
            if metric:
                name, value = _quality(list(measure(timed, [metric])))
                values.append(value)
            else:
                _draw(timed)
            seconds.append(timed.seconds / timed.made)
            made += timed.made
    return {
        "library": by,
        "backend": loaded.run_config.backend,
        "checkpoint": str(loaded.folder),
        "checkpoint_step": loaded.step,
        "parameters": sum(p.numel() for p in loaded.network.parameters()),
        "steps": settings["steps"],
        "sampler": settings.get("sampler"),
        "length_beam": settings.get("length_beam"),
        "fast": isinstance(request, TimedPairs) and request.how["fast"],
        "metric": name,
        "quality": _mean(values),
        "quality_deviation": _deviation(values) if request.draws else None,  # others have no seed
        "seconds_per_sample": statistics.median(seconds),
        "seconds_least": min(seconds),
        "seconds_most": max(seconds),
        "calls_per_sample": calls[0] / made,
        "peak_memory_mb": round(_peak(device) / 2**20, 1),
        "num": made // repeats,
        "repeats": repeats,
        "seed": request.seed if request.draws else None,
        "batch_size": request.batch_size if request.draws else None,
        "batch_tokens": request.batch_tokens if isinstance(request, TimedPairs) else None,
        "device": device.type,
        "precision": "bf16" if use_bf16(request.precision, device) else "fp32",
        "threads": torch.get_num_threads(),
    }


def warm_up(request: Timed) -> None:
    """Draw one batch for nothing: the first is slower than those after it."""
    _draw(replace(request, num=min(request.num, WARM)))


def _draw(request: Timed) -> None:
    """Samples that are not looked at; pictures of held-out captions, or of each class in turn,
    where the model is told any."""
    if isinstance(request, TimedPairs):
        request.decode(request.held_out_texts(request.held_out[0]))
    elif request.kind == "text":
        for _ in request.drawn(draw_texts):
            pass
    else:
        given, backend = {}, request.loaded.backend
        if backend.captions:
            examples = consecutive(request.held_out[0], 0, request.num)
            given = backend.as_in(examples, request.num)
        elif backend.classes:
            given = {"y": torch.arange(request.num) % backend.classes}
        for _ in request.drawn(draw_samples, given=given):
            pass


def _quality(figures: Sequence[Figure]) -> tuple[str, float]:
    """Name and value of the first figure; of captions in several languages that of them all."""
    first = figures[0].metric
    name = _spoken(first)
    same = [f.value for f in figures if f.metric == first or name == _spoken(f.metric) != f.metric]
    return name, statistics.mean(math.nan if value is None else value for value in same)


def _spoken(metric: str) -> str:
    """ "scene_accuracy[test-en]" without the language."""
    return re.sub(rf"^(scene_accuracy\[[\w-]+)-({'|'.join(LANGUAGES)})]$", r"\1]", metric)


@contextmanager
def _counted(loaded: Loaded) -> Iterator[list[int]]:
    """How many rows the network is called with in the block, in a list of one."""
    calls = [0]

    def count(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        calls[0] += len(arguments[0])

    hook = loaded.network.get_submodule(loaded.backend.called).register_forward_pre_hook(count)
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
