"""diffusion-lm: text by continuous diffusion (Li et al. 2022, https://arxiv.org/abs/2205.14217).

The configuration; imports no torch. The defaults are the paper's for E2E.
"""

from dataclasses import dataclass, field

from gentool.data.config import TextData
from gentool.diffusion.config import Denoising
from gentool.errors import UsageError
from gentool.nn.config import check_heads, check_time_features
from gentool.settings import setting
from gentool.tokenizers.config import TokenizerConfig
from gentool.training.config import TrainConfig

KIND, DRAWS, TOKENS, BOUND = "text", True, False, True  # see gentool.registry.Options


@dataclass
class ModelConfig:
    """The transformer (appendix F) and the embeddings. Raises UsageError."""

    embedding: int = setting(16, "dimensions of a word's embedding, d", low=1)
    hidden: int = setting(768, "width of the transformer", low=8)
    layers: int = setting(12, "layers of the transformer", low=1)
    heads: int = setting(12, "attention heads per layer", low=1)
    dropout: float = setting(0.1, "dropout", low=0.0, high=0.9)
    time_features: int = setting(128, "sines and cosines that tell the noise level", low=2)

    def __post_init__(self) -> None:
        check_heads("model", "hidden", self.hidden, self.heads)
        check_time_features(self.time_features)


@dataclass
class DiffusionConfig:
    """The forward process (section 4.1)."""

    T: int = setting(2000, "steps of the forward chain", low=1)
    schedule: str = setting("sqrt", "noise schedule", choices=("sqrt", "cosine", "linear"))


@dataclass
class DecodeConfig(Denoising):
    """How to denoise: the options of `gentool decode diffusion-lm`."""

    steps: int = setting(2000, "denoising steps", low=1)
    clamp: float = setting(
        1.0, "last share of the steps in which x_0 moves to the nearest words", low=0.0, high=1.0
    )
    given: str = setting(
        "clean",
        "given words are seen clean, as in the authors' code, or noised, as in training",
        choices=("clean", "noised"),
        idle=("length", 0),  # an option of `sample`: what `decode` fills always has given words
    )


@dataclass
class SampleConfig(DecodeConfig):
    """The options of `gentool sample diffusion-lm`, stored in the checkpoint."""

    length: int = setting(0, "tokens of a sample: words, as a rule; 0 = as it comes", low=0)
    mbr: int = setting(
        1, "candidates for a sample, of which the one most like the others", low=1, high=1000
    )
    guidance_scale: float = setting(
        1.0, "control: its weight beside fluency and the other controls", low=0.0
    )
    control_steps: int = setting(
        3, "control: gradient steps after each denoising step; 0 = none", low=0
    )
    control_rate: float = setting(0.1, "control: how far a gradient step goes", low=0.0)
    fluency: float = setting(
        0.01, "control: weight of staying near what the model would write", low=0.0
    )


@dataclass
class Config:
    """Everything a diffusion-lm recipe can set. Raises UsageError."""

    data: TextData = field(default_factory=TextData)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=200_000,
            batch_size=64,
            learning_rate=1e-4,
            schedule="linear",
            optimizer="adamw",
            clip_norm=0.0,
        )
    )
    sample: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self) -> None:
        # Else the run would end where it first draws samples.
        if self.sample.steps > self.diffusion.T:
            raise UsageError(
                f"sample.steps {self.sample.steps} is more than diffusion.T {self.diffusion.T}",
                f"--set sample.steps={self.diffusion.T}",
            )
        if self.sample.length + 2 > self.data.length:
            raise UsageError(
                f"sample.length {self.sample.length} and begin and end are more than data.length "
                f"{self.data.length}"
            )
