"""The `tokenizer` section of a recipe, and the tokenizer that it describes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gentool.errors import UsageError
from gentool.settings import setting
from gentool.tokenizers import KINDS, LEAST_COVERAGE, Tokenizer, load, pretrained, train


@dataclass
class TokenizerConfig:
    """How text becomes tokens."""

    kind: str = setting(
        "words", "words, SentencePiece, or one that is named", choices=(*KINDS, "huggingface")
    )
    name: str = setting(
        "", "folder of `gentool tokenizer train`; of kind huggingface name or folder; else trained"
    )
    revision: str = setting("", "revision of a tokenizer on the Hub")
    size: int = setting(0, "size of the vocabulary; 0 = all there is (words, char)", low=0)
    min_count: int = setting(11, "words that occur less often are unknown", low=1)
    coverage: float = setting(
        1.0,
        "share of all characters that get a piece (unigram, bpe, char)",
        low=LEAST_COVERAGE,
        high=1.0,
    )
    byte_fallback: bool = setting(False, "bytes for characters without a piece, not unknown")


@dataclass
class PairTokenizerConfig(TokenizerConfig):
    """How pairs of texts become tokens."""

    vocabularies: str = setting(
        "joint", "one for both sides, or one for each", choices=("joint", "separate")
    )


@dataclass
class PictureTokens(TokenizerConfig):
    """How pictures become tokens, and captions, where the model reads those."""

    image: str = setting(
        "", "run or checkpoint whose image tokenizer is taken; empty: one is trained first"
    )
    recipe: str = setting("vq-scenes", "recipe of the image tokenizer that is trained first")
    cache: str = setting(
        "",
        "folder of `gentool tokenizer cache`, trained on in place of the pictures themselves",
        fixed=False,  # but what is there: it may have been moved
    )


def has_tokens(config: Any) -> bool:
    """Whether models of a backend's configuration have a tokenizer; one that has the section may
    say that it is not in use."""
    return bool(getattr(config, "has_tokens", hasattr(config, "tokenizer")))


def make(config: TokenizerConfig, texts: Callable[[str], Iterable[str]]) -> Tokenizer:
    """The tokenizer of a new run: the one that is named, else trained on `texts(side)`, of pairs
    the `source`, the `target`, or `both`.

    Raises as `load`, `pretrained` and `train`.
    """
    from gentool.tokenizers.folder import ABOUT  # not for every --help
    from gentool.tokenizers.sides import Sides

    separate = isinstance(config, PairTokenizerConfig) and config.vocabularies == "separate"
    if not config.name:
        sides = ("source", "target") if separate else ("both",)
        trained = [_train(config, texts(side)) for side in sides]
        return Sides(*trained) if separate else trained[0]
    if config.kind == "huggingface" and not (Path(config.name) / ABOUT).is_file():
        if separate:
            raise UsageError(
                f"tokenizer.name {config.name} is one vocabulary",
                "--set tokenizer.vocabularies=joint",
            )
        return pretrained(config.name, config.revision)
    found = load(Path(config.name))
    if found.kind != config.kind:
        raise UsageError(
            f"tokenizer.name {config.name} is of kind {found.kind}, not {config.kind}",
            "a tokenizer of texts" if found.kind == "vq" else f"--set tokenizer.kind={found.kind}",
        )
    if isinstance(found, Sides) != separate:
        is_ = "separate" if isinstance(found, Sides) else "joint"
        raise UsageError(
            f"tokenizer.name {config.name} has {is_} vocabularies",
            f"--set tokenizer.vocabularies={is_}",
        )
    return found


def _train(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    return train(
        config.kind,
        texts,
        config.size or None,
        min_count=config.min_count,
        coverage=config.coverage,
        byte_fallback=config.byte_fallback,
    )
