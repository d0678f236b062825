"""What a picture is to be of: the class and caption handling of every backend that draws."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from gentool.data.holdout import train_and_validation
from gentool.data.images import NoPictures, first_pictures
from gentool.data.source import Data, Source
from gentool.errors import BadDataError, UsageError
from gentool.pixels import to_uint8
from gentool.protocol import Backend
from gentool.render import grid
from gentool.rng import BatchRng
from gentool.streams import one_line
from gentool.trace import OnStep

SHOWN = 16  # pictures of a preview


class Described(Protocol):
    """An example that may have a class or a caption."""

    @property
    def key(self) -> str: ...
    @property
    def label(self) -> int | None: ...
    @property
    def caption(self) -> str: ...


Example = TypeVar("Example", bound=Described)


class Conditioned(Backend):
    """A backend that draws from a class, a caption, both or neither."""

    config: Any
    classes: int  # 0: none
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

    def check_guidance(
        self, scale: float, y: Tensor | None, text: Tensor | None, negative: str = ""
    ) -> None:
        """Raise UsageError for guidance that would do nothing, or that this model cannot do."""
        bare = y is None and text is None
        # The checkpoint's own scale may stand: it is for those who name something.
        if bare and not negative and scale not in (1.0, self.config.sample.guidance_scale):
            names = ("--prompt TEXT",) * bool(self.captions)
            names += ("--class NAME",) * bool(self.classes)
            raise UsageError(
                f"--guidance-scale {scale} without a class or caption to guide to",
                " or ".join(names) or "this model knows no classes and no captions",
            )
        none = y is not None and bool((y == self.null_class).any())
        if self.captions and text is not None:
            none = bool((text == self.captions.null).all(dim=1).any())
        if bare or scale != 1.0 or none:
            self.no_condition()

    def as_in(self, examples: Sequence[Described], n: int) -> dict[str, Tensor]:
        """What `draw` is given for n pictures of the classes y [n] and captions text, rows [n, L],
        of `examples`, over and over; nothing of what this model is not told or they do not have."""
        examples = [examples[i % len(examples)] for i in range(n)]
        given: dict[str, Tensor] = {}
        labels = [example.label for example in examples if example.label is not None]
        if self.classes and len(labels) == n:
            given["y"] = torch.tensor(labels)
        captions = [example.caption for example in examples]
        if self.captions and any(captions):
            given["text"] = self.captions.rows(captions)
        return given

    def sources(self) -> tuple[Data, Source]:
        """What is trained on, and what is held out. Raises UsageError if it has other classes."""
        train, self._held_out = train_and_validation(self.config.data)
        if self.classes and self.classes != (found := len(train.labels)):
            raise UsageError(
                f"model.classes is {self.classes}, the data have {found or 'no'} classes",
                f"--set model.classes={found}",
            )
        return train, self._held_out

    def complete(self, example: Example) -> Example:
        """The example, which has what a batch is told. Raises BadDataError if it has no class."""
        if self.classes and example.label is None:
            raise BadDataError(f"{example.key} has no class (model.classes = 0 trains without)")
        return example

    def conditions(self, examples: Sequence[Described], rng: BatchRng) -> dict[str, Tensor]:
        """What a training batch is told of `complete` examples: classes y [B] and captions text,
        rows [B, L], where there are any, both dropped together."""
        told: dict[str, Tensor] = {}
        if not self._conditional:
            return told
        dropped = rng.uniform() < self.drop_condition  # [B]
        if self.classes:
            y = torch.tensor([example.label for example in examples])
            told["y"] = torch.where(dropped, self.null_class, y)
        if self.captions:
            rows = self.captions.rows([example.caption for example in examples])
            told["text"] = torch.where(dropped[:, None], self.captions.null, rows)
        return told

    @abstractmethod
    def draw(
        self, network: nn.Module, rng: BatchRng, sample: Any, on_step: OnStep | None = None,
        *, y: Tensor | None = None, text: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """One image for each generator in `rng`: float32 [B, C, H, W] in [-1, 1], on the CPU."""

    def preview(
        self, network: nn.Module, folder: Path, stem: str, poll: Callable[[], None]
    ) -> None:
        """Pictures as a grid, STEM.png, and the captions that they are drawn for, a line each, as
        STEM.txt; nothing where there are to be captions and none is held out."""
        rng = BatchRng.for_samples(0, range(SHOWN))
        y = torch.arange(SHOWN) % self.classes if self.classes else None  # each class in turn
        lines: list[str] = []
        if self.captions:
            try:
                held_out = first_pictures(self._held_out, SHOWN, self.config.data)
            except NoPictures:  # a validation tells of it
                return
            lines = [example.caption for example in held_out]
            lines = (SHOWN * lines)[:SHOWN]
        text = self.captions.rows(lines) if self.captions else None
        images = self.draw(network, rng, self.config.sample, lambda *_: poll(), y=y, text=text)
        # Nothing before it is drawn: what is there tells a resumed run that this preview is done.
        grid(to_uint8(images)).save(folder / f"{stem}.png")
        if lines:
            captions = "".join(one_line(line) + "\n" for line in lines)
            (folder / f"{stem}.txt").write_text(captions, encoding="utf-8")
