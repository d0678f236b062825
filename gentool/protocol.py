"""What the shared layers ask of a backend, and what they offer it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from gentool.data.source import Data, Source
from gentool.rng import BatchRng

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


class Backend(ABC):
    """One family of generators. Knows nothing of the shell.

    Built as `Backend(config)` from its own `Config`, or `Backend(config, tokenizer)` where that has
    a tokenizer section. Raises UsageError where it cannot be built.
    """

    tokenizer: Any = None  # gentool.tokenizers.Tokenizer, or of pictures; none: it has no tokens
    captions: "Captions | None" = None  # none: it draws from none
    called: str = ""  # the submodule that a step calls once, first with [B, ...]; "": the network
    in_parts: bool = False  # whether a step may leave parameters out, which then do not move at all
    most_steps: float = math.inf  # that drawing takes

    @abstractmethod
    def network(self) -> nn.Module:
        """A fresh network. Its initial weights come from torch's generator at the call."""

    @abstractmethod
    def sources(self) -> tuple[Data, Data]:
        """The data to train on and the data held out for validation."""

    @abstractmethod
    def prepare(self, source: Source, index: int, rng: torch.Generator, augment: bool) -> Any:
        """What a batch needs of record `index`: anything with a `key`, its name in messages.

        Runs in the loader's threads. Draws are from `rng`, and as many without `augment`, where
        they change nothing. Raises BadDataError, and TooLong for what there is no room for.
        """

    @abstractmethod
    def collate(self, examples: Sequence[Any], rng: BatchRng) -> Batch:
        """A training batch on the CPU of what `prepare` returned; draws are from `rng`."""

    @abstractmethod
    def loss(self, network: Callable[..., Any], batch: Batch) -> dict[str, Tensor]:
        """The terms of the training loss, [B] each, of which the sum is minimised and each is
        logged under its name; `batch` is on the network's device."""

    def watch(self, network: nn.Module) -> tuple[dict[str, float], str]:
        """Figures of the network itself for log.jsonl, and a warning, empty if all is well."""
        return {}, ""

    def preview(  # noqa: B027  # nothing, unless there is something to see
        self, network: nn.Module, folder: Path, stem: str, poll: Callable[[], None]
    ) -> None:
        """Draw a few samples, always the same seeds, as files `folder/stem.*`.

        `poll` is called between denoising steps and raises when there is no time for this.
        """
