"""Text to token ids and back: one interface for every backend that reads or writes text.

Imports neither torch nor transformers; `load` and `train` import what a kind needs.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gentool.errors import BadCheckpointError, UsageError, nearest

KINDS = ("words", "unigram", "bpe", "char")
"""What `train` makes."""
LEAST_COVERAGE = 0.98  # that SentencePiece takes
NO_TEXT = (
    "there is no text to train a tokenizer on",
    "texts, a line each; pictures without captions: a recipe that reads none, as ddpm-photos",
)
SPECIALS = ("pad", "unk", "bos", "eos", "mask")
"""Names of the tokens that no text contains. Their ids differ from tokenizer to tokenizer."""
SOURCE, TARGET = "source", "target"
"""Folders of the two tokenizers of pairs of texts, where each side has its own vocabulary."""


class Tokenizer(Protocol):
    """What the rest of gentool knows of a tokenizer."""

    kind: str  # words, unigram, bpe, char or huggingface
    size: int  # of the vocabulary, special tokens included: ids are 0..size-1

    @property
    def hash(self) -> str:
        """SHA-256 of all that its folder holds; ties the tokenizer to weights."""
        ...

    specials: Mapping[str, int]  # the ids of SPECIALS by name

    def special(self, name: str) -> int:
        """The id of the special token `name`, one of SPECIALS."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens but `unk`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens say nothing."""
        ...

    def token(self, id: int) -> str:
        """One token as it is shown to people, `<pad>` for a special one."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that `load` needs into the empty or absent `folder`."""
        ...


def load(folder: Path | str) -> Any:
    """The tokenizer that `save` wrote to `folder`: a Tokenizer, a VQTokenizer, or both as a
    PictureTokenizer; of pairs with separate vocabularies two, as Sides, which is a Tokenizer of
    the targets. Raises NotFoundError or BadCheckpointError."""
    folder = Path(folder)
    if (folder / "image").is_dir():
        from gentool.tokenizers.pictures import PictureTokenizer

        return PictureTokenizer.read(folder)
    from gentool.tokenizers.folder import Contents

    if (folder / SOURCE).is_dir():
        from gentool.tokenizers.sides import Sides

        return Sides(load(folder / SOURCE), load(folder / TARGET))
    contents = Contents.read(folder)
    module, name = _CLASSES[contents.kind]
    try:
        return getattr(importlib.import_module(module), name)(contents)
    except BadCheckpointError as error:
        raise BadCheckpointError(f"{folder}: {error}") from None


def train(
    kind: str,
    texts: Iterable[str],
    size: int | None = None,
    *,
    min_count: int = 1,
    coverage: float = 1.0,
    byte_fallback: bool = False,
) -> Tokenizer:
    """A tokenizer of `kind`, one of KINDS. The same texts and options give the same hash.

    size: of the vocabulary, special tokens included; the most it may have for words and char, which
    can do without. min_count: words that occur less often are unknown. coverage, byte_fallback: of
    the other kinds, the share of characters that get a token, and bytes for the rest.
    Raises UsageError (kind, size) or BadDataError (no text), and what `texts` raises.
    """
    if kind == "huggingface":
        raise UsageError(
            "a Hugging Face tokenizer is not trained here", "name it in the recipe: tokenizer.name"
        )
    if kind not in KINDS:
        known = (*KINDS, "vq")  # that of pictures, which is a run
        raise UsageError(f"unknown kind of tokenizer {kind!r}", nearest(kind, known))
    if size is not None and not len(SPECIALS) < size <= _MAX_SIZE:
        raise UsageError(
            f"a tokenizer cannot have size {size}",
            f"at least {len(SPECIALS) + 1}: {len(SPECIALS)} are special tokens",
        )
    if not LEAST_COVERAGE <= coverage <= 1:
        raise UsageError(f"coverage is a share in {LEAST_COVERAGE}..1, got {coverage}")
    if kind == "words":
        from gentool.tokenizers import words

        return words.train(texts, size, min_count)
    from gentool.tokenizers import pieces

    return pieces.train(kind, texts, size, coverage, byte_fallback)


def source_side(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer of the sources of pairs, given that of the targets: often the same one."""
    found: Tokenizer = getattr(tokenizer, "source", tokenizer)
    return found


def pretrained(name: str, revision: str = "") -> Tokenizer:
    """A Hugging Face tokenizer by name or folder. Raises as `huggingface.pretrained`."""
    from gentool.tokenizers import huggingface

    return huggingface.pretrained(name, revision)


_MAX_SIZE = 2**31 - 1
_CLASSES = {
    "words": ("gentool.tokenizers.words", "Words"),
    **dict.fromkeys(("unigram", "bpe", "char"), ("gentool.tokenizers.pieces", "Pieces")),
    "huggingface": ("gentool.tokenizers.huggingface", "HuggingFace"),
    "vq": ("gentool.tokenizers.vq.tokenizer", "VQTokenizer"),
}
