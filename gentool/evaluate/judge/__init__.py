"""judge: a small GPT-2 that says how likely a text is, trained on the same data as what it judges.

The configuration; imports no torch. The network is that of transformers, from scratch.
"""

from dataclasses import dataclass, field

from gentool.data.config import TextData
from gentool.nn.config import check_heads
from gentool.settings import setting
from gentool.tokenizers.config import TokenizerConfig
from gentool.training.config import TrainConfig


@dataclass
class ModelConfig:
    """The transformer. Raises UsageError."""

    hidden: int = setting(256, "width of the transformer", low=8)
    layers: int = setting(4, "layers of the transformer", low=1)
    heads: int = setting(4, "attention heads per layer", low=1)
    dropout: float = setting(0.1, "dropout", low=0.0, high=0.9)

    def __post_init__(self) -> None:
        check_heads("model", "hidden", self.hidden, self.heads)


@dataclass
class Config:
    """Everything a judge recipe can set."""

    data: TextData = field(default_factory=TextData)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=20_000,
            batch_size=64,
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=200,
            optimizer="adamw",
            weight_decay=0.01,
            ema_decay=0.999,
            sample_every=0,
        )  # fmt: skip
    )
