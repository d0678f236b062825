"""features for the training loop: a classifier, cross-entropy, nothing drawn."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool import protocol
from gentool.data.holdout import train_and_validation
from gentool.data.images import Picture, picture
from gentool.data.source import Data, Example, Source
from gentool.errors import BadDataError, UsageError
from gentool.evaluate.features import Config
from gentool.evaluate.features.network import Classifier
from gentool.protocol import Batch
from gentool.rng import BatchRng


class Backend(protocol.Backend):
    """Implements gentool.protocol.Backend. Raises UsageError where widths do not fit."""

    def __init__(self, config: Config) -> None:
        self.config = config
        model, size = config.model, config.data.image_size
        if model.channels % model.norm_groups:
            raise UsageError(
                f"model.norm_groups {model.norm_groups} does not divide model.channels "
                f"{model.channels}"
            )
        if size < 2 ** (model.levels - 1):
            raise UsageError(f"model.levels {model.levels} is too many for {size} pixels")

    def network(self) -> nn.Module:
        return Classifier(self.config.model, self.config.data.channels)

    def sources(self) -> tuple[Data, Source]:
        sources = train_and_validation(self.config.data)
        classes, found = self.config.model.classes, len(sources[0].labels)
        if classes != found:
            raise UsageError(
                f"model.classes is {classes}, the data have {found or 'no'} classes",
                f"--set model.classes={found}" if found else "pictures in a folder for each class",
            )
        return sources

    def prepare(
        self, source: Source[Example], index: int, rng: torch.Generator, augment: bool
    ) -> Picture:
        found = picture(source, index, self.config.data, rng, augment)
        if found.label is None:
            raise BadDataError(f"{found.key} has no class")
        return found

    def collate(self, examples: Sequence[Picture], rng: BatchRng) -> Batch:
        x_0 = torch.stack([example.image for example in examples])
        return {"x_0": x_0, "y": torch.tensor([example.label for example in examples])}

    def loss(self, network: Callable[..., Tensor], batch: Batch) -> dict[str, Tensor]:
        logits = network(batch["x_0"])
        return {"cross_entropy": F.cross_entropy(logits.float(), batch["y"], reduction="none")}
