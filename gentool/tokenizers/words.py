"""Words with counts, as in the paper of Diffusion-LM: what is rare is unknown.

A word is a run of characters that are neither white space nor punctuation, joined inside by - ' /
& @ or a full stop, and between digits by a comma or colon (t-shirt, don't, a.m, 10,000). Dashes are
one token, other punctuation one token a character, and so is each Chinese or Japanese character.

`decode` restores normal spacing: a space between tokens, but none around Chinese and Japanese, none
before what closes, none after what opens; straight quotes open and close in turn. White space
itself is not kept.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from gentool.errors import BadCheckpointError, BadDataError, UsageError
from gentool.streams import clean
from gentool.tokenizers import NO_TEXT, SPECIALS
from gentool.tokenizers.folder import Contents, Stored

_CJK = r"\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uffef\U00020000-\U0003fffd"
_MARKS = r"""!"#$%&'()*+,\-./:;<=>?@\[\\\]^`{|}~¡¢£¥§«¶·»¿€\u2010-\u205e"""
_LETTER = rf"[^\s{_CJK}{_MARKS}]"
_IS_LETTER = re.compile(_LETTER)
_IS_CJK = re.compile(f"[{_CJK}]")
_TOKEN = re.compile(
    rf"{_LETTER}+(?:(?:[-'’/&@.]|(?<=\d)[,:](?=\d)){_LETTER}+)*"  # a word
    r"|-+|\S"  # a dash of any length, or one character
)
_CLOSING = frozenset(".,;:!?)]}%…”’»")
_OPENING = frozenset("([{“‘«¿¡#$¢£¥€")
_QUOTES = frozenset("\"'")


class Words(Stored):
    """A vocabulary of words, the most frequent first, after the special tokens."""

    def __init__(self, contents: Contents) -> None:
        """Raises BadCheckpointError if the vocabulary is not one."""
        super().__init__(contents)
        try:
            lines = contents.data.decode("utf-8").split("\n")[:-1]
            self.counts = {word: int(n) for word, n in (line.split("\t") for line in lines)}
        except ValueError as error:
            raise BadCheckpointError(f"vocab.tsv is not words with counts: {error}") from None
        self._words = [*SPECIALS, *self.counts]
        if len(self._words) != self.size or len(lines) != len(self.counts):
            raise BadCheckpointError(
                f"vocab.tsv has {len(lines)} words, not {self.size - len(SPECIALS)} different ones"
            )
        if any(contents.specials[name] != id for id, name in enumerate(SPECIALS)):
            raise BadCheckpointError("special tokens are not before the words")
        self._ids = {word: id for id, word in enumerate(self.counts, start=len(SPECIALS))}

    def encode(self, text: str) -> list[int]:
        """The ids of the words of `text`; `unk` for those not in the vocabulary."""
        unk = self.special("unk")
        return [self._ids.get(word, unk) for word in split(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The words in normal spacing; special tokens say nothing."""
        return join(self._words[id] for id in ids if id not in self._specials)

    def _token(self, id: int) -> str:
        return self._words[id]


def train(texts: Iterable[str], size: int | None, min_count: int) -> Words:
    """The words seen `min_count` times or more; of these the `size` most frequent, special tokens
    included. Words of the same count are in alphabetical order.

    Raises BadDataError or UsageError if there are none.
    """
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update(split(clean(text)))
    if not seen:
        raise BadDataError(*NO_TEXT)
    kept = sorted(((-n, word) for word, n in seen.items() if n >= min_count))
    kept = kept[: size - len(SPECIALS) if size is not None else None]
    if not kept:
        most = max(seen.values())
        raise UsageError(f"no word occurs {min_count} times, the most frequent {most} times")
    data = "".join(f"{word}\t{-n}\n" for n, word in kept).encode()
    specials = {name: id for id, name in enumerate(SPECIALS)}
    options = {"min_count": min_count}
    return Words(Contents("words", len(SPECIALS) + len(kept), specials, options, data))


def split(text: str) -> list[str]:
    """The tokens of `text`."""
    tokens: list[str] = []
    quoting = False
    end = 0  # of the word before, if there is one
    for found in _TOKEN.finditer(text):
        token = found.group()
        if token == "'":
            after = text[found.end() : found.end() + 1]
            if not quoting and end == found.start() and end and not _IS_LETTER.match(after):
                tokens[-1] += token  # the girls' team
                end = found.end()
                continue
            quoting = not quoting
        tokens.append(token)
        end = found.end() if _IS_LETTER.match(token) else 0
    return tokens


def join(tokens: Iterable[str]) -> str:
    """The text of `tokens` in normal spacing."""
    return "".join(_spaced(tokens))


def _spaced(tokens: Iterable[str]) -> Iterator[str]:
    open_quotes: set[str] = set()
    glued = True  # to what was before
    for token in tokens:
        closes, opens = token in _CLOSING, token in _OPENING
        if token in _QUOTES:
            closes, opens = token in open_quotes, token not in open_quotes
            open_quotes ^= {token}
        cjk = bool(_IS_CJK.match(token))
        yield token if glued or closes or cjk else " " + token
        glued = opens or cjk
