"""Lines with blanks, `a ___ circle` or `a ___:3 circle`, as rows of which some tokens are given."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gentool.errors import BadDataError
from gentool.tokenizers import Tokenizer

BLANK = re.compile(r"_{3,}(?::([0-9]+))?")  # however long it is drawn, one


@dataclass(frozen=True)
class Infill:
    """One line to be filled."""

    given: tuple[str, ...]  # the text before, between and after the blanks, as it stands
    blanks: tuple[tuple[int, int], ...]  # first position and number of tokens of each blank
    ids: list[int]  # [L] token ids, padding in the blanks
    known: list[bool]  # [L]

    def filled(self, ids: Sequence[int], tokenizer: Tokenizer) -> str:
        """The line with the words of `ids` [L] in its blanks; what was given is not touched."""
        text = self.given[0]
        for (start, n), after in zip(self.blanks, self.given[1:], strict=True):
            text += tokenizer.decode(ids[start : start + n]).strip() + after
        return text


def parse(line: str, tokenizer: Tokenizer, length: int) -> Infill:
    """Raises BadDataError for a line with blanks that has more than `length` tokens, or a blank of
    none."""
    pieces = BLANK.split(line)  # text, number or None, text, ...
    given = pieces[::2]
    counts = [int(n[:9]) if n else 1 for n in pieces[1::2]]  # more digits are as much too many
    if 0 in counts:
        raise BadDataError("a blank of 0 tokens", "___ is a blank of one, ___:3 of three")
    encoded = [tokenizer.encode(text) for text in given]
    n = sum(map(len, encoded)) + sum(counts) + 2
    if counts and n > length:
        raise BadDataError(
            f"{n} tokens with begin and end, this model's rows have {length}", "shorten it"
        )
    pad = tokenizer.special("pad")
    ids = [tokenizer.special("bos"), *encoded[0]]
    known, blanks = [True] * len(ids), []
    for count, after in zip(counts, encoded[1:], strict=True):
        blanks.append((len(ids), count))
        ids += [pad] * count + after
        known += [False] * count + [True] * len(after)
    rest = length - n
    ids += [tokenizer.special("eos")] + [pad] * rest
    return Infill(tuple(given), tuple(blanks), ids, known + [True] * (1 + rest))
