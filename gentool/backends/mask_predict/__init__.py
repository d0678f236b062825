"""mask-predict: text from text, all tokens at once (Ghazvininejad et al. 2019).

https://arxiv.org/abs/1904.09324. The configuration; imports no torch. The defaults are the paper's
base model and its English-German training.
"""

from dataclasses import dataclass, field

from gentool.data.config import PairData
from gentool.errors import UsageError
from gentool.nn.config import EncoderDecoderConfig
from gentool.settings import setting
from gentool.tokenizers.config import PairTokenizerConfig
from gentool.training.config import PairTrainConfig, TokensLossConfig

KIND, DRAWS, TOKENS, BOUND = "text", False, False, False  # see gentool.registry.Options


@dataclass
class ModelConfig(EncoderDecoderConfig):
    """The encoder-decoder (section 2): 60M parameters with 32,000 tokens."""


@dataclass
class DecodeConfig:
    """How to decode: the options of `gentool decode mask-predict`, stored in the checkpoint."""

    steps: int = setting(10, "passes of the decoder, T", low=1)
    length_beam: int = setting(5, "target lengths tried for each source", low=1)


@dataclass
class Config:
    """Everything a mask-predict recipe can set. Raises UsageError."""

    data: PairData = field(default_factory=PairData)
    tokenizer: PairTokenizerConfig = field(default_factory=PairTokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: TokensLossConfig = field(default_factory=TokensLossConfig)
    train: PairTrainConfig = field(
        default_factory=lambda: PairTrainConfig(
            steps=300_000,
            batch_size=64,
            learning_rate=5e-4,
            schedule="inverse_sqrt",
            warmup_steps=10_000,
            optimizer="adamw",
            weight_decay=0.01,
            clip_norm=25.0,
        )
    )
    sample: DecodeConfig = field(default_factory=DecodeConfig)

    def __post_init__(self) -> None:
        if self.sample.length_beam > self.data.length:
            raise UsageError(
                f"sample.length_beam {self.sample.length_beam} is more than data.length "
                f"{self.data.length}: there are not so many lengths"
            )
