"""Texts as rows of tokens of one length, and pairs of texts: what text models are trained on."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from gentool.data.config import TextData
from gentool.data.loader import TooLong
from gentool.data.source import Source
from gentool.data.text import Attributes, Text
from gentool.errors import BadDataError
from gentool.tokenizers import Tokenizer, source_side


@dataclass(frozen=True)
class Row:
    """One example as a text model sees it. In a block, key and attributes are the first text's."""

    key: str
    ids: list[int]  # config.length of them
    attributes: Attributes


@dataclass(frozen=True)
class Pair:
    """One example as a model of pairs sees it. Both sides end in eos, neither has a bos."""

    key: str
    src_ids: list[int]
    tgt_ids: list[int]

    @property
    def size(self) -> int:
        """What it takes in a batch of pairs: the tokens of its longer side."""
        return max(len(self.src_ids), len(self.tgt_ids))


def pair(source: Source[Text], index: int, tokenizer: Tokenizer, config: TextData) -> Pair:
    """Pair `index`. Raises BadDataError, and TooLong for one of which a side does not fit."""
    text = source[index]
    if text.source is None:
        raise BadDataError(f"{text.key}: a text alone, not a pair", "name data.source_column")
    src_ids = encode(text.key, text.source, source_side(tokenizer), config, begin=False)
    return Pair(text.key, src_ids, encode(text.key, text.text, tokenizer, config, begin=False))


def padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Rows of different lengths as one tensor [B, L]."""
    L = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (L - len(row))] for row in rows])


def row(source: Source[Text], index: int, tokenizer: Tokenizer, config: TextData) -> Row:
    """Row `index`: bos, its text, eos and then padding, or in a block more texts like that.

    A block goes on with the texts after its own and is cut where it is full. So it depends on
    (source, index) alone, whatever the batches, and an epoch has as many blocks as texts. (The
    blocks of Li et al. are cut from one long sequence, and begin anywhere in a text.)
    Raises BadDataError, and TooLong for a text that does not fit.
    """
    blocks = config.layout == "block"
    if blocks and source.size is None:
        index *= config.length // 2  # as many texts as a block can hold: no text is in two of them
    first = source[index]
    ids = encode(first.key, first.text, tokenizer, config)
    if blocks:
        size = source.size or config.length
        for after in range(index + 1, index + min(size, config.length)):
            if len(ids) >= config.length:
                break
            with suppress(BadDataError):  # it is reported at its own index
                text = source[after if source.size is None else after % size]
                ids = ids + encode(text.key, text.text, tokenizer, config)
    padding = [tokenizer.special("pad")] * (config.length - len(ids))
    return Row(first.key, (ids + padding)[: config.length], first.attributes)


def encode(
    key: str, text: str, tokenizer: Tokenizer, config: TextData, *, begin: bool = True
) -> list[int]:
    """bos if it is to begin with that, the tokens, eos. A text too long is cut, without an end, or
    raises TooLong."""
    bos = [tokenizer.special("bos")] if begin else []
    ids = [*bos, *tokenizer.encode(text), tokenizer.special("eos")]
    if len(ids) > config.length and config.too_long == "skip":
        raise TooLong(f"{key}: {len(ids)} tokens, data.length is {config.length}")
    return ids[: config.length]
