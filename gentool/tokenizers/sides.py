"""Separate vocabularies for the two sides of pairs of texts: one tokenizer for each."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from gentool.tokenizers import SOURCE, TARGET, Tokenizer


class Sides:
    """The tokenizer of the targets, with that of the sources as `source`."""

    def __init__(self, source: Tokenizer, target: Tokenizer) -> None:
        self.source, self.target = source, target
        self.kind, self.size, self.specials = target.kind, target.size, target.specials

    @property
    def hash(self) -> str:
        """SHA-256 of both."""
        return hashlib.sha256(f"{self.source.hash} {self.target.hash}".encode()).hexdigest()

    def special(self, name: str) -> int:
        """The id of the special token `name`, one of SPECIALS."""
        return self.target.special(name)

    def encode(self, text: str) -> list[int]:
        """The ids of a target."""
        return self.target.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The target of `ids`."""
        return self.target.decode(ids)

    def token(self, id: int) -> str:
        """One token of the targets as it is shown to people."""
        return self.target.token(id)

    def save(self, folder: Path) -> None:
        """Write both into `folder`, one folder each."""
        self.source.save(folder / SOURCE)
        self.target.save(folder / TARGET)
