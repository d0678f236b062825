"""A trace on a terminal, while it is made: pictures in half blocks, tokens in words."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from gentool.render.tokens import changed, pictures, shown, texts
from gentool.trace import Frame, Tokens, Trace, View

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.text import Text

SHARE = 0.05  # of the time, at most, that drawing takes
PAUSE = 0.1  # seconds between the steps of a trace that is played again
BLOCKS = " ░▒▓█"  # from dark to bright, where there is no colour


class Player:
    """Draws frames as they come. Where it is no terminal, a step below the other and plain."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False, legacy_windows=False)
        self._live: Live | None = None  # one for each batch: a second start would erase lines
        self._before: dict[int, View] = {}
        self._next = 0.0

    def play(self, frames: Sequence[Frame], total: int) -> None:
        """Show one step of some samples; left out where drawing would hold up what is drawn."""
        began = time.monotonic()
        last = frames[0].step == total
        if not last and began < self._next:
            return
        drawn = self._drawn(frames, total)
        if self._console.is_terminal:
            self._update(drawn)
            if last:
                self.stop()
        else:
            self._console.print(drawn)
        self._before |= {frame.sample: frame.view for frame in frames}
        ended = time.monotonic()
        self._next = ended + (ended - began) / SHARE

    def stop(self) -> None:
        """Leave the terminal as it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _update(self, drawn: "RenderableType") -> None:
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(drawn, refresh=True)

    def _drawn(self, frames: Sequence[Frame], total: int) -> "RenderableType":
        from rich.columns import Columns
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [Text(f"step {frames[0].step} of {total}")]
        boxes: list[Any] = []
        width, height = self._console.size
        for frame in frames:
            title = f"sample {frame.sample}  {frame.prompt}".rstrip()
            each = pictures(frame.view)
            for name, image in each.items():
                boxes.append(self._picture(image, f"{title}  {name}", min(width, 2 * height) - 4))
            lines = texts(frame.view)
            if lines:
                parts.append(Text(title))
            before = self._before.get(frame.sample)
            for name, tokens in lines.items():
                parts.append(Text.assemble((f"  {name:8} ", "dim"), words(tokens, before, name)))
        if boxes:
            across = max(1, width // (_cells(boxes[0]) + 2) // len(each)) * len(each)
            down = max(1, (height - 2) // (boxes[0].plain.count("\n") + 1))
            for row in range(0, min(len(boxes), across * down), across):
                parts.append(Columns(boxes[row : row + across], padding=(0, 2)))
        return Group(*parts)

    def _picture(self, image: np.ndarray, title: str, room: int) -> "Text":
        from rich.text import Text

        n = -(-image.shape[1] // room)
        pixels = image[::n, ::n].astype(int)
        if len(pixels) % 2:
            pixels = np.concatenate([pixels, pixels[-1:]])
        text = Text(title[: pixels.shape[1]].ljust(pixels.shape[1]) + "\n", no_wrap=True)
        in_colour = self._console.color_system is not None and not self._console.no_color
        for row, (upper, lower) in enumerate(zip(pixels[::2], pixels[1::2], strict=True)):
            text.append("\n" if row else "")
            for a, b in zip(upper, lower, strict=True):
                if in_colour:
                    text.append("▀", f"rgb({a[0]},{a[1]},{a[2]}) on rgb({b[0]},{b[1]},{b[2]})")
                else:
                    text.append(BLOCKS[int((a.mean() + b.mean()) / 2 * len(BLOCKS) / 256)])
        return text


def replay(trace: Trace, stream: TextIO) -> None:
    """Play a trace that was kept; on a terminal in its own time."""
    player = Player(stream)
    try:
        for step in sorted({frame.step for frame in trace.frames}):
            player.play([f for f in trace.frames if f.step == step], trace.facts["steps"])
            if stream.isatty():
                time.sleep(PAUSE)
    finally:
        player.stop()


def words(tokens: Tokens, before: View | None, name: str) -> "Text":
    """A row of words: the less likely the fainter, changed ones underlined, masked ones in
    brackets."""
    from rich.text import Text

    text = Text()
    for i, word in enumerate(shown(tokens)):
        start = len(text)
        if tokens.masked[i]:
            text.append(f"[{word}]", "dim")
        else:
            confidence = tokens.confidence[i]
            style = "dim" if confidence < 0.5 or not word else "bold" if confidence > 0.9 else ""
            text.append(word or "·", style)
        if changed(before, name, i, word):
            text.stylize("underline", start, len(text))
        text.append(" ")
    return text


def _cells(text: "Text") -> int:
    return text.plain.index("\n")
