"""What the shared layers ask of a backend, and what they offer it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from gentool.data.source import Data, Source
from gentool.rng import BatchRng
from gentool.tokenizers import Tokenizer

if TYPE_CHECKING:
    from gentool.nn.text import Captions

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Line:
    """A drawn text."""

    text: str
    tokens: int  # up to the end of the sentence
    ties: int  # of these, those whose second best word is nearly as likely


@dataclass(frozen=True)
class Hypothesis:
    """A text made of another."""

    text: str
    score: float  # mean log probability of its tokens
    length: int  # tokens, the end of the sentence among them
    steps: int  # passes of the decoder that it took


class Reporter(Protocol):
    """Where a long job says how it is going (gentool.cli.console)."""

    def info(self, message: str) -> None:
        """Something worth a line."""
        ...

    def progress(self, done: int, total: int, fields: dict[str, str]) -> None:
        """Done so many of so many; `fields` are shown beside the bar."""
        ...


class Backend(Protocol):
    """One family of generators. Built from its configuration; knows nothing of the shell."""

    tokenizer: Tokenizer | None  # None: the backend has no tokens
    captions: "Captions | None"  # None: it draws from none
    called: str  # the submodule that a step calls once, first with [B, ...]; "" is the network
    in_parts: bool  # whether a step may leave parameters out, which are then not moved at all

    def __init__(self, config: Any, tokenizer: Any = ...) -> None:
        """config: the backend's own `Config`; tokenizer: where that has a tokenizer section.

        Raises UsageError where it cannot be built.
        """
        ...

    def network(self) -> nn.Module:
        """A fresh network. Its initial weights come from torch's generator at the call."""
        ...

    def sources(self) -> tuple[Data, Source]:
        """The data to train on and the data held out for validation."""
        ...

    def prepare(self, source: Source, index: int, rng: torch.Generator, augment: bool) -> Any:
        """What a batch needs of record `index`: anything with a `key`, its name in messages.

        Runs in the loader's threads. Draws are from `rng`, and as many without `augment`, where
        they change nothing. Raises BadDataError, and TooLong for what there is no room for.
        """
        ...

    def collate(self, examples: Sequence[Any], rng: BatchRng) -> Batch:
        """A training batch on the CPU of what `prepare` returned; draws are from `rng`."""
        ...

    def loss(self, network: Callable[..., Tensor], batch: Batch) -> dict[str, Tensor]:
        """The terms of the training loss, [B] each, of which the sum is minimised and each is
        logged under its name; `batch` is on the network's device."""
        ...

    def watch(self, network: nn.Module) -> tuple[dict[str, float], str]:
        """Figures of the network itself for log.jsonl, and a warning, empty if all is well."""
        ...

    def preview(
        self, network: nn.Module, folder: Path, stem: str, poll: Callable[[], None]
    ) -> None:
        """Draw a few samples, always the same seeds, as files `folder/stem.*`.

        `poll` is called between denoising steps and raises when there is no time for this.
        """
        ...
