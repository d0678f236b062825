"""What numbers too small to be normal cost a step of training.

    python benchmarks/denormals.py runs/diffusion-lm-captions

Loss and gradients of a run's model on its own data, with such numbers counted as 0 and as they are,
alternating.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch
from results import append
from timing import alternate

from gentool.checkpoint.load import load_checkpoint
from gentool.data.loader import TooLong
from gentool.device import pick_device, use_bf16
from gentool.rng import BatchRng, generator


def main(run: str) -> None:
    loaded = load_checkpoint(Path(run), "diffusion-lm")
    backend, network, train = loaded.backend, loaded.network.train(), loaded.config.train
    source, _ = backend.sources()
    B = train.batch_size
    rows: list[Any] = []
    for i in count():
        with suppress(TooLong):
            rows.append(backend.prepare(source, i, generator(i), augment=True))
        if len(rows) == B:
            break
    batch = backend.collate(rows, BatchRng.for_samples(0, range(B)))
    bf16 = use_bf16(train.precision, pick_device("cpu"))

    def step(flush: bool) -> Callable[[], object]:
        def run_it() -> None:
            torch.set_flush_denormal(flush)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                terms = backend.loss(network, batch)
            sum(terms.values()).mean().backward()  # type: ignore[union-attr]

        return run_it

    seconds = alternate({"flushed": step(True), "as they are": step(False)}, 5)
    facts = {"n": B, "threads": torch.get_num_threads(), "precision": "bf16" if bf16 else "fp32"}
    values = {f"seconds[{name}]": value for name, value in seconds.items()}
    values["speed-up"] = seconds["as they are"] / seconds["flushed"]
    figures = [
        {"metric": f"denormals {k}", "value": round(v, 4), **facts} for k, v in values.items()
    ]
    append("denormals", f"python benchmarks/denormals.py {run}", figures)
    for figure in figures:
        print(figure)


main(*sys.argv[1:])
