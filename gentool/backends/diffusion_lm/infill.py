"""Lines with blanks, `a ___ circle` or `a ___:3 circle`, as rows of which some tokens are given."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gentool.errors import BadDataError
from gentool.tokenizers import Tokenizer

BLANK = re.compile(r"___(?::(\d+))?")


@dataclass(frozen=True)
class Infill:
    """One line to be filled."""

    given: tuple[str, ...]  # the text before, between and after the blanks, as it stands
    blanks: tuple[tuple[int, int], ...]  # first position and number of tokens of each blank
    w: list[int]  # [L] token ids, padding in the blanks
    known: list[bool]  # [L]

    def filled(self, ids: Sequence[int], tokenizer: Tokenizer) -> str:
        """The line with the words of `ids` [L] in its blanks; what was given is not touched."""
        text = self.given[0]
        for (start, n), after in zip(self.blanks, self.given[1:], strict=True):
            text += tokenizer.decode(ids[start : start + n]).strip() + after
        return text


def parse(line: str, tokenizer: Tokenizer, length: int) -> Infill:
    """Raises BadDataError for a line that has more than `length` tokens, or a blank of none."""
    pieces = BLANK.split(line)  # text, number or None, text, ...
    given, counts = pieces[::2], [int(n) if n else 1 for n in pieces[1::2]]
    if 0 in counts:
        raise BadDataError("a blank of 0 tokens", "___ is a blank of one, ___:3 of three")
    pad = tokenizer.special("pad")
    w, known, blanks = [tokenizer.special("bos")], [True], []
    for number, text in enumerate(given):
        ids = tokenizer.encode(text)
        w += ids
        known += [True] * len(ids)
        if number < len(counts):
            blanks.append((len(w), counts[number]))
            w += [pad] * counts[number]
            known += [False] * counts[number]
    w.append(tokenizer.special("eos"))
    if len(w) > length:
        raise BadDataError(
            f"{len(w)} tokens with begin and end, this model's rows have {length}", "shorten it"
        )
    rest = length - len(w)
    return Infill(tuple(given), tuple(blanks), w + [pad] * rest, known + [True] * (rest + 1))
