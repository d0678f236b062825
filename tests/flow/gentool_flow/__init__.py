"""flow: rectified flow over pixels (Liu et al. 2022), a backend of another package."""

from dataclasses import dataclass, field
from pathlib import Path

from gentool.data.config import ImageData
from gentool.settings import setting
from gentool.training.config import TrainConfig

KIND, DRAWS, TOKENS, BOUND = "images", True, False, False
RECIPE = str(Path(__file__).with_name("flow-scenes.toml"))


@dataclass
class ModelConfig:
    """The network."""

    channels: int = setting(64, "width of the network", low=1)
    patch_size: int = setting(1, "p × p pixels become one position", low=1)


@dataclass
class SampleConfig:
    """How to sample: the options of `gentool sample flow`, stored in the checkpoint."""

    steps: int = setting(50, "Euler steps from noise to picture", low=1)


@dataclass
class DecodeConfig(SampleConfig):
    """The options of `gentool decode flow`."""

    passes = 1
    of_edits = not_of_edits = ()


@dataclass
class Config:
    """Everything a flow recipe can set."""

    data: ImageData = field(default_factory=ImageData)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
