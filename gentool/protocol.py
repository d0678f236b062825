"""What the shared layers ask of a backend, and what they offer it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from gentool.data.loader import Loaded
from gentool.data.source import Data, Source
from gentool.rng import BatchRng

Batch = dict[str, Tensor]


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

    def __init__(self, config: Any) -> None:
        """config: the backend's own `Config`. Raises UsageError where it cannot be built."""
        ...

    def network(self) -> nn.Module:
        """A fresh network. Its initial weights come from torch's generator at the call."""
        ...

    def sources(self) -> tuple[Data, Source]:
        """The data to train on and the data held out for validation."""
        ...

    def collate(self, examples: Sequence[Loaded], rng: BatchRng) -> Batch:
        """A training batch on the CPU; every random draw is made here, from `rng`."""
        ...

    def loss(self, network: Callable[..., Tensor], batch: Batch) -> Tensor:
        """The training loss of each example, [B]; `batch` is on the network's device."""
        ...

    def preview(
        self, network: nn.Module, folder: Path, stem: str, poll: Callable[[], None]
    ) -> None:
        """Draw a few samples, always the same seeds, as files `folder/stem.*`.

        `poll` is called between denoising steps and raises when there is no time for this.
        """
        ...
