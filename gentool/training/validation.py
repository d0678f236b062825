"""The loss on held-out examples, with draws that are the same every time."""

import dataclasses
from typing import Any

import torch
from torch import nn

from gentool.data.loader import Loader
from gentool.data.source import Source
from gentool.data.stream import Stream
from gentool.protocol import Backend
from gentool.rng import BatchRng

BATCH = 64
SEED = 0x5EED  # of order, noise and noise levels: validations of all runs are comparable


@torch.no_grad()
def validation_loss(
    backend: Backend, network: nn.Module, source: Source, data: Any, n: int
) -> tuple[float, int]:
    """Mean loss over n examples of `source` (all of them, if it has fewer), and their number.

    data: the [data] section; augmentation is off.
    """
    n = min(n, source.size or n)
    device = next(network.parameters()).device
    plain = dataclasses.replace(data, flip=False, crop="center")
    loader = Loader(source, plain, Stream(source, SEED), SEED)
    was_training, total = network.training, 0.0
    network.eval()
    try:
        for start in range(0, n, BATCH):
            examples = loader.next(min(BATCH, n - start))
            batch = backend.collate(examples, BatchRng([example.rng for example in examples]))
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            total += backend.loss(network, batch).sum().item()
    finally:
        network.train(was_training)
        loader.close()
    return total / n, n
