"""Drawing samples in batches: sample i of a seed is the same whatever the batch it is in."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from gentool.checkpoint.load import Loaded
from gentool.device import pick_device, use_bf16
from gentool.rng import BatchRng
from gentool.settings import Tree, build, merge


def sample_settings(loaded: Loaded, given: Tree) -> Any:
    """The checkpoint's sampling defaults with `given` over them. Raises UsageError."""
    backend_sample = type(loaded.config.sample)
    return build(backend_sample, merge(loaded.run_config.config["sample"], given), "--")


def words(settings: Any) -> str:
    """ "steps 50, sampler ddim": sampling settings for a line or a model card."""
    return ", ".join(f"{name} {value}" for name, value in asdict(settings).items())


def draw_images(
    loaded: Loaded,
    indices: Sequence[int],
    seed: int,
    settings: Any,
    *,
    batch_size: int,
    device: str = "auto",
    precision: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """The samples `indices` of `seed`, batch by batch: (indices, float32 [B, C, H, W] in [-1, 1]).

    precision None: fp32 on a CPU, `auto` elsewhere. progress is told of denoising steps done.
    """
    chosen = pick_device(device)
    bf16 = use_bf16(precision or ("fp32" if chosen.type == "cpu" else "auto"), chosen)
    network = loaded.network.to(chosen)
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    total, done = len(batches) * settings.steps, 0

    def on_step(*_: object) -> None:
        nonlocal done
        done += 1
        progress(done, total)

    for batch in batches:
        rng = BatchRng.for_samples(seed, batch)
        with torch.autocast(chosen.type, torch.bfloat16, enabled=bf16):
            images = loaded.backend.draw(network, rng, settings, on_step)
        yield batch, images
