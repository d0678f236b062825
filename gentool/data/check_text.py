"""What `gentool data check` finds in texts before training does."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from gentool.data.check import Problem
from gentool.data.config import TextData
from gentool.data.loader import TooLong
from gentool.data.rows import encode
from gentool.data.source import Source
from gentool.data.text import Text
from gentool.errors import BadDataError
from gentool.rng import seed_of
from gentool.tokenizers import Tokenizer, source_side


@dataclass
class TextReport:
    """What a scan found. The counts are of the texts that can be read."""

    n: int = 0  # looked at, unreadable ones included
    bad: list[Problem] = field(default_factory=list)
    empty: int = 0
    duplicates: int = 0  # texts that occurred before; complete when the scan has ended
    longest: int = 0  # characters
    too_long: int = 0  # for a row
    attributes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


def scan_texts(
    source: Source[Text],
    config: TextData,
    tokenizer: Tokenizer | None,
    report: TextReport,
    num: int,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Problem]:
    """Look at the first `num` texts; fill `report` and yield problems as found. Whether a text is
    too long is known with a tokenizer alone. `progress` is called for every text."""
    hashes = array("Q")
    report.attributes |= {name: Counter() for name in config.attributes}  # one may have no values
    for index in range(num):
        report.n += 1
        progress()
        try:
            text = source[index]
        except BadDataError as error:
            key, _, reason = str(error).partition(": ")
            problem = Problem(key, reason)
            report.bad.append(problem)
            yield problem
            continue
        if text.empty:
            report.empty += 1
            continue
        both = [text.text] if text.source is None else [text.source, text.text]
        hashes.append(seed_of(*both))
        report.longest = max(report.longest, *map(len, both))
        for name, values in text.attributes.items():
            report.attributes[name].update(values)
        if tokenizer:
            try:
                if text.source is not None:
                    encode(text.key, text.source, source_side(tokenizer), config, begin=False)
                encode(text.key, text.text, tokenizer, config, begin=text.source is None)
            except TooLong:
                report.too_long += 1
    report.duplicates = len(hashes) - len(np.unique(hashes))


def describe(number: int, text: Text) -> str:
    """`17  a red circle …  shape=circle, color=red`, in printable characters; pairs by an arrow."""
    pairs = [f"{name}={'|'.join(values)}" for name, values in text.attributes.items()]
    told = text.text if text.source is None else f"{text.source} → {text.text}"
    line = "  ".join(part for part in (str(number), told, ", ".join(pairs)) if part)
    return "".join(char if char.isprintable() else " " for char in line)
