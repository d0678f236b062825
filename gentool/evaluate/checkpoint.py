"""Figures of an image checkpoint: the loss on held-out data, and what its samples show."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from gentool.checkpoint.load import Loaded
from gentool.data.images import open_images
from gentool.data.source import Data
from gentool.device import pick_device
from gentool.errors import UsageError, nearest
from gentool.evaluate.figures import Figure
from gentool.evaluate.scenes import unconditional_figures
from gentool.render import to_uint8
from gentool.sampling import draw_images
from gentool.training.validation import BATCH, held_out_examples, validation_loss

METRICS = {
    "loss": "training loss on held-out examples, fixed noise",
    "bpd": "bound on the log-likelihood in bits per dimension, and its terms",
    "scenes": "what samples of a model of the built-in world show",
}


def measure(
    loaded: Loaded,
    metrics: Sequence[str],
    settings: Any,
    *,
    data: str | None,
    num: int,
    seed: int,
    batch_size: int,
    device: str,
    precision: str | None,
    progress: Callable[[int, int], None],
) -> list[Figure]:
    """The figures of `metrics`; none named: all that fit the checkpoint's data, but for bpd.

    data: a spec in place of what the run held out. Raises UsageError for an unknown metric.
    """
    is_scenes = "scenes" in loaded.config.data.spec
    fitting = [name for name in METRICS if name != "scenes" or is_scenes]
    usual = [name for name in fitting if name != "bpd"]  # which takes a call per step and example
    for name in metrics:
        if name not in METRICS:
            raise UsageError(f"no metric {name!r}", nearest(name, METRICS))
        if name not in fitting:
            raise UsageError(
                f"metric {name!r} is for models of scenes", f"has: {', '.join(fitting)}"
            )
    figures = []
    for name in metrics or usual:
        if name == "loss":
            figures.append(_loss(loaded, data, num, device))
        elif name == "bpd":
            figures += _bound(loaded, data, num, settings, device, progress)
        else:
            batches = draw_images(
                loaded, range(num), seed, settings,
                batch_size=batch_size, device=device, precision=precision, progress=progress,
            )  # fmt: skip
            images = np.concatenate([to_uint8(images) for _, images in batches])
            values = unconditional_figures(images)
            made = {"checkpoint_step": loaded.step, **asdict(settings)}
            figures += [Figure(k, v, num, seed, None, made) for k, v in values.items()]
    return figures


def _loss(loaded: Loaded, data: str | None, num: int, device: str) -> Figure:
    network = loaded.network.to(pick_device(device))
    source, split = _held_out(loaded, data)
    value, n = validation_loss(loaded.backend, network, source, loaded.config.data, num)
    made = {"checkpoint_step": loaded.step, "data": source.fingerprint}
    return Figure("loss", value, n, None, split, made)


def _bound(
    loaded: Loaded,
    data: str | None,
    num: int,
    settings: Any,
    device: str,
    progress: Callable[[int, int], None],
) -> list[Figure]:
    """The variational bound: its sum, its three parts, and L_t of every step t."""
    network = loaded.network.to(pick_device(device))
    source, split = _held_out(loaded, data)
    sums = torch.zeros(settings.steps + 1, dtype=torch.float64)
    n = 0
    total = math.ceil(min(num, source.size or num) / BATCH) * len(sums)
    for number, examples in enumerate(held_out_examples(source, loaded.config.data, num)):
        for i, term in enumerate(loaded.backend.bound(network, examples, settings)):
            sums[i] += term.double().sum().item()
            progress(number * len(sums) + i + 1, total)
        n += len(examples)
    prior, *steps = (sums / n).tolist()
    made = {"checkpoint_step": loaded.step, "data": source.fingerprint, **asdict(settings)}
    parts = {
        "bpd": prior + math.fsum(steps),
        "bpd[prior]": prior,
        "bpd[kl]": math.fsum(steps[:-1]),
        "bpd[decoder]": steps[-1],
    }
    terms = {f"bpd[t={t}]": term for t, term in enumerate(reversed(steps))}
    return [
        Figure(name, value, n, None, split, made, detail=name in terms)
        for name, value in (parts | terms).items()
    ]


def _held_out(loaded: Loaded, data: str | None) -> tuple[Data, str]:
    if data is None:
        return loaded.backend.sources()[1], "held out"
    name, _, split = data.partition(":")
    if name == "scenes":
        chosen = replace(loaded.config.data, spec=("scenes",), split=split or "test")
        return open_images(chosen), chosen.split
    return open_images(replace(loaded.config.data, spec=(data,), split="train")), "all"
