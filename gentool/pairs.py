"""Learning from pairs of texts: what backends that make text of text have in common."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from gentool.data.config import TextData
from gentool.data.holdout import text_train_and_validation
from gentool.data.rows import Pair, pair
from gentool.data.source import Data, Source
from gentool.data.text import Text, is_pairs
from gentool.errors import UsageError
from gentool.protocol import Backend
from gentool.streams import one_line
from gentool.tokenizers import Tokenizer, source_side

SHOWN = 16  # sentences of a preview


class OfPairs(Backend):
    """The data side of `gentool.protocol.Backend`, for sources and targets. Both end in eos."""

    def __init__(self, data: TextData, tokenizer: Tokenizer) -> None:
        """Raises UsageError for single texts."""
        self.data, self.tokenizer = data, tokenizer
        self.source = source_side(tokenizer)
        self.joint = self.source is tokenizer  # one vocabulary for both sides
        self.src_pad, self.pad = self.source.special("pad"), tokenizer.special("pad")
        if not is_pairs(data):
            raise UsageError(
                "it learns to make text of text, and these data are single texts",
                "--data SOURCE,TARGET (parallel lines), or a table with --set "
                "data.source_column=NAME",
            )

    def sources(self) -> tuple[Data, Data]:
        train, self._held_out = text_train_and_validation(self.data)
        return train, self._held_out

    def prepare(
        self, source: Source[Text], index: int, rng: torch.Generator, augment: bool
    ) -> Pair:
        return pair(source, index, self.tokenizer, self.data)

    def preview(
        self, network: nn.Module, folder: Path, stem: str, poll: Callable[[], None]
    ) -> None:
        """Held-out sources, each with what is made of it, as lines of STEM.txt."""
        held_out = self._held_out
        lines = [held_out[i].source or "" for i in range(min(SHOWN, held_out.size or SHOWN))]
        made = zip(lines, self.texts(network, lines, poll), strict=True)
        shown = "".join(f"{one_line(a)}\t{one_line(b)}\n" for a, b in made)
        (folder / f"{stem}.txt").write_text(shown, "utf-8")

    @abstractmethod
    def texts(
        self, network: nn.Module, lines: Sequence[str], poll: Callable[[], None] | None = None
    ) -> list[str]:
        """What it makes of sources; nothing of one that is too long."""

    def source_row(self, line: str) -> list[int]:
        """A source as the network reads it."""
        return [*self.source.encode(line), self.source.special("eos")]
