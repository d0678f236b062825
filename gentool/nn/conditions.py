"""What a picture is to be of: the class and caption handling of every backend that draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from gentool.data.source import Example, Source, consecutive
from gentool.errors import BadDataError, UsageError
from gentool.nn.text import Captions
from gentool.rng import BatchRng


class Described(Protocol):
    """An example that may have a class or a caption."""

    @property
    def key(self) -> str: ...
    @property
    def label(self) -> int | None: ...
    @property
    def caption(self) -> str: ...


class Conditioned:
    """A backend that draws from a class, a caption, both or neither."""

    classes: int  # 0: none
    captions: Captions | None
    drop_condition: float  # share of training examples that lose class and caption
    drop_setting: str  # that says so

    @property
    def null_class(self) -> int:
        """The class that stands for none, in training where one was dropped."""
        return self.classes

    @property
    def _conditional(self) -> bool:
        return bool(self.classes or self.captions)

    def no_condition(self) -> None:
        """Raise UsageError for a model that was never taught to draw without its condition."""
        what = "caption" if self.captions else "class"
        if self._conditional and not self.drop_condition:
            raise UsageError(
                f"this model was trained with a {what} for every image ({self.drop_setting} 0): "
                "it cannot draw or guide without one",
                f"name a {what}, and no guidance scale but 1",
            )

    def conditions(self, examples: Sequence[Described], rng: BatchRng) -> dict[str, Tensor]:
        """What a training batch is told: classes y [B] and captions text, rows [B, L], where there
        are any, both dropped together. Raises BadDataError for an example without a class."""
        told: dict[str, Tensor] = {}
        if not self._conditional:
            return told
        dropped = rng.uniform() < self.drop_condition  # [B]
        if self.classes:
            y = torch.tensor([label(example) for example in examples])
            told["y"] = torch.where(dropped, self.null_class, y)
        if self.captions:
            rows = self.captions.rows([example.caption for example in examples])
            told["text"] = torch.where(dropped[:, None], self.captions.null, rows)
        return told

    def shown(self, held_out: Source[Example], n: int, texts: Path) -> dict[str, Tensor]:
        """What n previews are drawn for: each class in turn, held-out captions, which are written
        to `texts`."""
        told: dict[str, Tensor] = {}
        if self.classes:
            told["y"] = torch.arange(n) % self.classes
        if self.captions:
            lines = [example.caption for example in consecutive(held_out, 0, n)]
            lines = (n * lines)[:n]
            told["text"] = self.captions.rows(lines)
            texts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return told


def label(example: Described) -> int:
    """The class of an example. Raises BadDataError if it has none."""
    if example.label is None:
        raise BadDataError(f"{example.key} has no class", "model.classes = 0 trains without")
    return example.label
