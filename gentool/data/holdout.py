"""Keeping a part of the data for validation."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from gentool.data.config import ImageData
from gentool.data.images import open_images
from gentool.data.source import Example, Source
from gentool.rng import generator

MOST = 512  # records held out at the most
SHARE = 20  # one in so many


class Subset:
    """Some records of a source."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = indices
        self.size: int | None = len(indices)
        self.labels = source.labels
        self.fingerprint = source.fingerprint

    def __getitem__(self, index: int) -> Example:
        return self.source[self.indices[index]]


def train_and_validation(config: ImageData) -> tuple[Source, Source]:
    """The data to train on, and what is held out: the `test` split of scenes, else 5 % (≤ 512).

    Which records are held out depends on their number alone. A single image serves as both.
    """
    source = open_images(config)
    if source.size is None:
        return source, open_images(replace(config, split="test"))
    order = torch.randperm(source.size, generator=generator("hold out")).tolist()
    n = min(MOST, source.size // SHARE + (source.size < SHARE))
    if source.size == 1:
        return source, source
    return Subset(source, sorted(order[n:])), Subset(source, sorted(order[:n]))
