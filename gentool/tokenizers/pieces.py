"""SentencePiece: pieces of words that are learned from text, without knowing any language.

Nothing is normalised: what is decoded is what was encoded, white space included. Only U+2581 (▁),
which SentencePiece writes for a space, comes back as a space.
"""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sentencepiece

from gentool.errors import BadCheckpointError, BadDataError, UsageError
from gentool.streams import clean
from gentool.tokenizers import NO_TEXT, SPECIALS
from gentool.tokenizers.folder import Contents, Stored

_MARK = "\u2585"  # ▅, which SentencePiece keeps for itself
_WITHOUT_RESERVED = {0: None, ord(_MARK): None}  # when it trains it skips lines with these
_MOST = 2**21  # pieces; Unicode has fewer characters, and SentencePiece slows down with more
_MAX_LINE_BYTES = 2**30  # longer lines would be skipped; the default is 4192


class Pieces(Stored):
    """A SentencePiece model: unigram, BPE or characters."""

    def __init__(self, contents: Contents) -> None:
        """Raises BadCheckpointError if the model is not one."""
        super().__init__(contents)
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=contents.data)
        except (RuntimeError, OSError, ValueError) as error:
            raise BadCheckpointError(f"sentencepiece.model cannot be read: {error}") from None
        if self._model.get_piece_size() != self.size:
            raise BadCheckpointError(
                f"sentencepiece.model has {self._model.get_piece_size()} pieces, not {self.size}"
            )
        if self._model.unk_id() != self.special("unk"):
            raise BadCheckpointError("sentencepiece.model has another unknown token")

    def encode(self, text: str) -> list[int]:
        """The ids of the pieces of `text`; `unk` for characters that no piece has."""
        return list(self._model.encode(clean(text)))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the pieces; special tokens say nothing."""
        return str(self._model.decode([int(id) for id in ids if id not in self._specials]))

    def _token(self, id: int) -> str:
        return str(self._model.id_to_piece(id))


def train(
    kind: str, texts: Iterable[str], size: int | None, coverage: float, byte_fallback: bool
) -> Pieces:
    """kind: unigram or bpe, of exactly `size` pieces, or char, of at most so many.

    coverage: share of all characters that get a piece. byte_fallback: the others are 256 pieces for
    bytes, not unknown. Raises UsageError for an impossible size, BadDataError without text.
    """
    if size is None and kind != "char":
        raise UsageError(f"a {kind} tokenizer needs a size", "--size 8000")
    lines = _Lines(texts)
    model = io.BytesIO()
    # Names that no text has: SentencePiece would not learn the letters of "<pad>" from a text.
    named = [name for name in SPECIALS if name != "mask"]
    options: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": min(size or _MOST, _MOST),
        "character_coverage": coverage,
        "byte_fallback": byte_fallback,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "max_sentence_length": _MAX_LINE_BYTES,
        "num_threads": 1,  # more of them add up in another order, to other bytes
        "minloglevel": 3,
        **{f"{name}_id": id for id, name in enumerate(named)},
        **{f"{name}_piece": _MARK + name for name in named},
        "control_symbols": [_MARK + "mask"],  # gets the next id
    }
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, **options
        )
    except (RuntimeError, SystemError) as error:  # SystemError: 0.2.0, if the texts raise
        if not lines.n and not lines.error:
            raise BadDataError(*NO_TEXT) from None
        if not lines.error:
            said = _in_our_words(kind, size, str(error))
            raise UsageError(said, "--size N, in a recipe tokenizer.size") from None
    if lines.error:
        raise lines.error
    found = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    specials = {name: found.piece_to_id(_MARK + name) for name in SPECIALS}
    given = {"coverage": coverage, "byte_fallback": byte_fallback}
    return Pieces(Contents(kind, found.get_piece_size(), specials, given, model.getvalue()))


class _Lines:
    """The texts that have something in them, counted; an error is kept, as SentencePiece makes its
    own of it."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = texts
        self.n = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self.texts:
                line = clean(text).translate(_WITHOUT_RESERVED)
                if line.strip():
                    self.n += 1
                    yield line
        except BaseException as error:  # a Ctrl-C too
            self.error = error
            raise


def _in_our_words(kind: str, size: int | None, message: str) -> str:
    if found := re.search(r"value <= (\d+)", message):
        return f"size {size} is too large for {kind}: at most {found[1]} for these texts"
    if found := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"size {size} is too small: at least {found[1]} for all characters of these texts"
    return f"SentencePiece cannot train {kind} of size {size}: {message}"
