"""The loss on held-out examples, with draws that are the same every time."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from gentool.data.loader import ON_BAD, Loader, Prepared
from gentool.data.source import Data
from gentool.data.stream import open_stream
from gentool.errors import BadDataError
from gentool.evaluate.translation import scores
from gentool.protocol import Backend
from gentool.rng import BatchRng

BATCH = 64
SEED = 0x5EED  # of order, noise and noise levels: validations of all runs are comparable


@torch.no_grad()
def validation_loss(
    backend: Backend, network: nn.Module, source: Data, data: Any, n: int
) -> tuple[float, int]:
    """Mean loss over n examples of `source` (all of them, if it has fewer), and their number."""
    device = next(network.parameters()).device
    was_training, total, seen = network.training, 0.0, 0
    network.eval()
    try:
        for examples in held_out_examples(backend, source, data, n):
            rng = BatchRng([example.rng for example in examples])
            batch = backend.collate([example.value for example in examples], rng)
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            terms = backend.loss(network, batch).values()  # some of a part of the batch
            total += len(examples) * sum(term.mean().item() for term in terms)
            seen += len(examples)
    finally:
        network.train(was_training)
    return total / seen, seen


def validation_bleu(backend: Any, network: nn.Module, source: Data, n: int) -> float:
    """BLEU, 0 to 100, of what a backend of pairs makes of n held-out sources."""
    places = open_stream(source, SEED).next(min(n, source.size or n))
    pairs = [place.source[place.index] for place in places]
    made = backend.texts(network, [pair.source for pair in pairs])
    return float(scores(made, [[pair.text for pair in pairs]])["bleu"].value or 0.0)


def held_out_examples(
    backend: Backend, source: Data, data: Any, n: int
) -> Iterator[list[Prepared[Any]]]:
    """n examples of `source` (all of them, if it has fewer) in batches, always the same ones, but
    for those that cannot be used. Raises BadDataError if none can.

    data: the [data] section; augmentation is off.
    """
    n = min(n, source.size or n)
    prepare = partial(backend.prepare, augment=False)
    # What is left out of them is told of by `data check`; each validation would tell it anew.
    any_own = False
    loader: Loader[Any] = Loader(open_stream(source, SEED), prepare, data, lambda message: None)
    try:
        for start in range(0, n, BATCH):
            examples = loader.next(min(BATCH, n - start))
            first = [example for example in examples if example.epoch == 0]
            own = [example for example in first if example.own]  # none counts twice
            if own:
                any_own = True
                yield own
            if len(first) < len(examples):  # shards turned out to hold fewer than n
                break
    finally:
        loader.close()
    if not any_own:
        raise BadDataError(f"none of {n} held-out records can be used", ON_BAD)
