"""The loss on held-out examples, with draws that are the same every time."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from gentool.data.loader import Loaded, Loader
from gentool.data.source import Data
from gentool.data.stream import open_stream
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
        for examples in held_out_examples(source, data, n):
            batch = backend.collate(examples, BatchRng([example.rng for example in examples]))
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            total += backend.loss(network, batch).sum().item()
            seen += len(examples)
    finally:
        network.train(was_training)
    return total / seen, seen


def held_out_examples(source: Data, data: Any, n: int) -> Iterator[list[Loaded]]:
    """n examples of `source` (all of them, if it has fewer) in batches, always the same ones.

    data: the [data] section; augmentation is off.
    """
    n = min(n, source.size or n)
    plain = dataclasses.replace(data, flip=False, crop="center")
    loader = Loader(open_stream(source, SEED), plain)
    try:
        for start in range(0, n, BATCH):
            examples = loader.next(min(BATCH, n - start))
            first = [example for example in examples if example.epoch == 0]
            if first:
                yield first
            if len(first) < len(examples):  # shards turned out to hold fewer than n
                return
    finally:
        loader.close()
