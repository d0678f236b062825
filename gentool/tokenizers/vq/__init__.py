"""vq: pictures to tokens and back (van den Oord et al. 2017; as MaskGIT's, Chang et al. 2022).

The configuration; imports no torch. The defaults are MaskGIT's tokenizer for 256 × 256 pixels, but
that a block's shortcut takes the block's input, where theirs takes its output.
"""

from dataclasses import dataclass, field

from gentool.data.config import ImageData
from gentool.errors import UsageError
from gentool.settings import setting
from gentool.training.config import TrainConfig

KIND, DRAWS, TOKENS, BOUND = "images", False, True, False  # see gentool.registry.Options


@dataclass
class ModelConfig:
    """Encoder, codebook and decoder. Raises UsageError."""

    channels: int = setting(128, "channels at full resolution", low=1)
    multipliers: tuple[int, ...] = setting(
        (1, 1, 2, 2, 4), "channels per level, × channels; each level halves the resolution", low=1
    )
    blocks: int = setting(2, "residual blocks per level", low=1)
    middle: int = setting(2, "residual blocks at the lowest resolution, beside its own", low=0)
    norm_groups: int = setting(32, "groups of each GroupNorm", low=1)
    patch_size: int = setting(1, "pixels per side of what the network sees as one position", low=1)
    local: bool = setting(
        False, "a token depends on its own pixels alone: the encoder mixes no positions"
    )
    codes: int = setting(1024, "entries of the codebook, K", low=2)
    dimensions: int = setting(256, "length of an entry, D", low=1)

    def __post_init__(self) -> None:
        if not self.multipliers:
            raise UsageError("model.multipliers is empty", "one number per level, e.g. [1, 2]")
        for multiplier in self.multipliers:
            if self.channels * multiplier % self.norm_groups:
                raise UsageError(
                    f"model.norm_groups {self.norm_groups} does not divide a width of "
                    f"{self.channels * multiplier}"
                )

    @property
    def factor(self) -> int:
        """Pixels per side of one token."""
        return self.patch_size * 2 ** (len(self.multipliers) - 1)


@dataclass
class QuantizerConfig:
    """How encoder and codebook are held together."""

    commitment: float = setting(0.25, "weight of |sg(e) - z|^2", low=0.0)
    entropy: float = setting(
        0.1, "weight of the entropy term: each token sure of its code, all codes in use", low=0.0
    )
    temperature: float = setting(0.01, "of the softmax over distances in that term", low=1e-6)
    decay: float = setting(0.99, "decay of the averages that the codes are", low=0.0, high=1.0)
    revive_every: int = setting(
        100, "steps after which codes that were not chosen in them are put elsewhere", low=1
    )
    start: float = setting(
        0.0,
        "share of the steps without codes, in which the encoder learns what to tell; it then stays "
        "as it is. 0 = both learn together",
        low=0.0,
        high=0.9,
    )

    def __post_init__(self) -> None:
        if self.start and self.entropy:
            raise UsageError(
                f"quantizer.start {self.start}: the encoder does not learn from codes then, so "
                f"quantizer.entropy {self.entropy} would do nothing",
                "quantizer.entropy = 0",
            )


@dataclass
class AdversarialConfig:
    """A discriminator of patches beside the reconstruction (VQGAN, Esser et al. 2021), for
    photographs."""

    weight: float = setting(
        0.0, "weight of the adversarial term beside the reconstruction; 0 = none", low=0.0
    )
    start: int = setting(0, "steps before it begins", low=0)
    channels: int = setting(64, "channels after the discriminator's first layer", low=1)
    layers: int = setting(3, "times the discriminator halves the resolution", low=1)


@dataclass
class Config:
    """Everything a vq recipe can set. Raises UsageError."""

    data: ImageData = field(default_factory=ImageData)
    model: ModelConfig = field(default_factory=ModelConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=1_000_000, batch_size=256, learning_rate=1e-4, beta2=0.99, ema_decay=0.999
        )
    )

    def __post_init__(self) -> None:
        check_size(self.data.image_size, self.model)
        if self.adversarial.weight and self.data.image_size >> self.adversarial.layers < 3:
            raise UsageError(
                f"adversarial.layers {self.adversarial.layers} leaves no patch of "
                f"{self.data.image_size} pixels",
                "--set adversarial.layers=2, or fewer",
            )


def check_size(image_size: int, model: ModelConfig) -> None:
    """Raise UsageError for pictures that are not a whole number of tokens wide."""
    if image_size % model.factor:
        raise UsageError(
            f"data.image_size {image_size} is not a multiple of {model.factor}, the pixels of a "
            "token",
            "fewer model.multipliers, or another data.image_size",
        )
