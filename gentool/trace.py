"""What samples look like on their way: one kind of record for every backend. Imports no torch.

A backend tells after each step how to look at it (`Look`), a `Recorder` looks at some samples in
some steps, and `gentool.render` makes files or a terminal's picture of what it kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SAMPLES = 4  # that a trace shows
STEPS = 50  # of each, at most
SIDE = 128  # pixels: a larger picture is kept reduced


@dataclass(frozen=True)
class Tokens:
    """A row of tokens [L], or the grid of a picture's tokens [H_z, W_z], which has no words."""

    confidence: np.ndarray  # float, the probability of the token that stands there
    masked: np.ndarray  # bool, of the same shape: where it is to be drawn again
    words: tuple[str, ...] = ()  # as shown to people; empty where nothing stands, as after the end


@dataclass(frozen=True)
class View:
    """A sample after a step: pictures, uint8 [H, W, 1 or 3], and tokens, under the names that their
    algorithm gives them (x_t, x_0_hat)."""

    images: dict[str, np.ndarray] = field(default_factory=dict)
    tokens: dict[str, Tokens] = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """One sample after one step."""

    sample: int
    step: int  # how many are done
    prompt: str  # what it is drawn for: a class, a caption, a sentence; empty for nothing
    view: View


@dataclass
class Trace:
    """What is known of a command, and its frames, sample after sample, in the order of steps."""

    facts: dict[str, Any]  # backend, checkpoint, checkpoint_step, seed, command, settings, steps
    frames: list[Frame]

    def samples(self) -> dict[int, list[Frame]]:
        """Sample -> its frames."""
        found: dict[int, list[Frame]] = {}
        for frame in self.frames:
            found.setdefault(frame.sample, []).append(frame)
        return found


Look = Callable[[Sequence[int]], list[View]]
"""What the rows with these numbers of a batch look like after a step."""
OnStep = Callable[[Look], None]
"""What `draw` of a backend calls after each step."""


class Recorder:
    """Keeps frames of the first samples that come by. It costs where it looks, and looks seldom."""

    def __init__(
        self,
        prompt: Callable[[int], str] = lambda sample: "",
        play: Callable[[list[Frame], int], None] | None = None,
    ) -> None:
        """prompt: what a sample is drawn for. play: shown the frames of a step as they come, and
        the number of steps."""
        self.prompt = prompt
        self.frames: list[Frame] = []
        self.steps = 0  # of the longest way
        self._samples: set[int] = set()
        self._play = play

    def step(self, samples: Sequence[int], done: int, total: int, look: Look) -> None:
        """Step `done` of `total` of a batch of `samples` is over."""
        for sample in samples[: SAMPLES - len(self._samples)]:
            self._samples.add(sample)
        if not _kept(done, total):
            return
        rows = [row for row, sample in enumerate(samples) if sample in self._samples]
        if not rows:
            return
        self.steps = max(self.steps, total)
        now = [
            Frame(samples[row], done, self.prompt(samples[row]), _reduced(view))
            for row, view in zip(rows, look(rows), strict=True)
        ]
        self.frames += now
        if self._play:
            self._play(now, total)

    def trace(self, facts: dict[str, Any]) -> Trace:
        """All that was kept."""
        frames = sorted(self.frames, key=lambda frame: (frame.sample, frame.step))
        return Trace({**facts, "steps": self.steps}, frames)


def _kept(done: int, total: int) -> bool:
    """The first step, the last, and others evenly between."""
    n = min(STEPS, total) - 1
    return done == 1 or n == 0 or (done - 1) * n // (total - 1) > (done - 2) * n // (total - 1)


def _reduced(view: View) -> View:
    """`view` with pictures of at most SIDE pixels: the mean of each square of so many."""
    images = {}
    for name, image in view.images.items():
        n = -(-max(image.shape[:2]) // SIDE)
        if n > 1:
            H, W, C = (image.shape[0] // n, image.shape[1] // n, image.shape[2])
            squares = image[: H * n, : W * n].reshape(H, n, W, n, C)
            image = squares.mean(axis=(1, 3)).round().astype(np.uint8)
        images[name] = image
    return View(images, view.tokens)
