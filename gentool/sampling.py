"""Drawing samples in batches: sample i of a seed is the same whatever the batch it is in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from gentool.checkpoint.load import Loaded
from gentool.device import pick_device, use_bf16
from gentool.rng import BatchRng
from gentool.settings import Tree, build, merge


def sample_settings(loaded: Loaded, given: Tree, section: type | None = None) -> Any:
    """The checkpoint's sampling defaults with `given` over them, as a `section` that extends the
    backend's sample section, if one is named. Raises UsageError."""
    section = section or type(loaded.config.sample)
    return build(section, merge(loaded.run_config.config["sample"], given), "--")


def class_names(loaded: Loaded) -> list[str]:
    """The classes that the model can be told of; its data may have some that it was not told."""
    return loaded.run_config.data.get("labels", []) if loaded.backend.null_class else []


def words(settings: Any) -> str:
    """ "steps 50, sampler ddim": sampling settings for a line or a model card."""
    return ", ".join(f"{name} {value}" for name, value in asdict(settings).items())


def draw_images(
    loaded: Loaded,
    indices: Sequence[int],
    seed: int,
    settings: Any,
    *,
    given: Mapping[str, Tensor] | None = None,
    passes: int = 1,
    batch_size: int,
    device: str = "auto",
    precision: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """The samples `indices` of `seed`, batch by batch: (indices, float32 [B, C, H, W] in [-1, 1]).

    given: what the backend's `draw` takes beside noise, a row for each of `indices`. passes: times
    each step is walked. precision None: fp32 on a CPU, `auto` elsewhere. progress is told of
    denoising steps done.
    """
    chosen = pick_device(device)
    bf16 = use_bf16(precision or ("fp32" if chosen.type == "cpu" else "auto"), chosen)
    network = loaded.network.to(chosen)
    starts = range(0, len(indices), batch_size)
    total, done = len(starts) * settings.steps * passes, 0

    def on_step(*_: object) -> None:
        nonlocal done
        done += 1
        progress(done, total)

    for start in starts:
        rows = slice(start, start + batch_size)
        batch = indices[rows]
        rng = BatchRng.for_samples(seed, batch)
        mine = {name: tensor[rows] for name, tensor in (given or {}).items()}
        with torch.autocast(chosen.type, torch.bfloat16, enabled=bf16):
            images = loaded.backend.draw(network, rng, settings, on_step, **mine)
        yield batch, images
