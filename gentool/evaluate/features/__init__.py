"""features: a small classifier whose inner layer FID and KID compare pictures by.

The configuration; imports no torch. `gentool train features` fits it on labelled pictures.
"""

from dataclasses import dataclass, field

from gentool.data.config import ImageData
from gentool.settings import setting
from gentool.training.config import TrainConfig

RECIPE = "features-cifar10"  # what is trained with none named; --data names other pictures


@dataclass
class ModelConfig:
    """A residual convolutional network."""

    classes: int = setting(10, "classes of the pictures", low=2)
    channels: int = setting(32, "channels at full resolution; twice as many at each half", low=8)
    levels: int = setting(3, "resolutions, each half the one before", low=1)
    norm_groups: int = setting(8, "groups of each GroupNorm", low=1)


@dataclass
class Config:
    """Everything a features recipe can set."""

    data: ImageData = field(default_factory=ImageData)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=3000, batch_size=64, learning_rate=1e-3, schedule="cosine", optimizer="adamw"
        )
    )
