"""Settings that networks of several backends share: what reads captions, attention heads, and how
large an encoder-decoder is. Imports no torch."""

from dataclasses import dataclass

from gentool.errors import UsageError
from gentool.settings import setting
from gentool.tokenizers.config import TokenizerConfig


def check_heads(section: str, name: str, width: int, heads: int) -> None:
    """Raise UsageError for attention heads that do not share the width `section.name` evenly."""
    if width % heads:
        raise UsageError(f"{section}.heads {heads} does not divide {section}.{name} {width}")


def check_time_features(n: int) -> None:
    """Raise UsageError for features of the noise level that are not pairs of sine and cosine."""
    if n % 2:
        raise UsageError(f"model.time_features must be even, got {n}")


@dataclass
class TextConfig:
    """The text encoder. Raises UsageError."""

    encoder: str = setting(
        "none",
        "what reads captions: none; transformer, small and trained along; pretrained, frozen",
        choices=("none", "transformer", "pretrained"),
    )
    name: str = setting("", "pretrained: Hugging Face name or folder of a CLIP, T5 or BERT")
    revision: str = setting("", "pretrained: its revision on the Hub")
    length: int = setting(32, "tokens of a caption, begin and end included; more are cut", low=3)
    width: int = setting(128, "what the network sees of each token, D", low=8)
    layers: int = setting(2, "layers of the transformer", low=1)
    heads: int = setting(4, "attention heads of the transformer", low=1)

    def __post_init__(self) -> None:
        check_heads("model.text", "width", self.width, self.heads)
        if (self.encoder == "pretrained") != bool(self.name):
            raise UsageError(
                f"model.text.encoder is {self.encoder!r}, model.text.name is {self.name!r}",
                'a name goes with encoder = "pretrained", and with no other',
            )

    def tokenizer(self, given: TokenizerConfig) -> TokenizerConfig:
        """The tokenizer section that goes with it: a pretrained encoder brings its own."""
        if self.encoder != "pretrained":
            return given
        return TokenizerConfig("huggingface", self.name, self.revision)


@dataclass
class EncoderDecoderConfig:
    """The transformer that makes text of text. Raises UsageError."""

    hidden: int = setting(512, "width of the transformer", low=8)
    feedforward: int = setting(2048, "width inside its feed-forward layers", low=8)
    encoder_layers: int = setting(6, "layers of the encoder", low=1)
    decoder_layers: int = setting(6, "layers of the decoder", low=1)
    heads: int = setting(8, "attention heads per layer", low=1)
    dropout: float = setting(0.3, "dropout", low=0.0, high=0.9)

    def __post_init__(self) -> None:
        check_heads("model", "hidden", self.hidden, self.heads)
