"""teacher: an autoregressive encoder-decoder, whose translations mask-predict is trained on.

The configuration; imports no torch. The network is the Marian of transformers, from scratch.
"""

from dataclasses import dataclass, field

from gentool.data.config import PairData
from gentool.nn.config import EncoderDecoderConfig
from gentool.tokenizers.config import PairTokenizerConfig
from gentool.training.config import PairTrainConfig, TokensLossConfig


@dataclass
class Config:
    """Everything a teacher recipe can set. The defaults are the base model of Vaswani et al. (2017)
    but for its GELU, with a peak, warm-up and clipping as fairseq's recipes for it have them."""

    data: PairData = field(default_factory=PairData)
    tokenizer: PairTokenizerConfig = field(default_factory=PairTokenizerConfig)
    model: EncoderDecoderConfig = field(default_factory=lambda: EncoderDecoderConfig(dropout=0.1))
    loss: TokensLossConfig = field(default_factory=TokensLossConfig)
    train: PairTrainConfig = field(
        default_factory=lambda: PairTrainConfig(
            steps=100_000,
            batch_size=64,
            learning_rate=7e-4,
            schedule="inverse_sqrt",
            warmup_steps=4000,
            optimizer="adamw",
            beta2=0.98,
            ema_decay=0.999,
        )
    )
