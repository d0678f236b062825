"""Traces as pictures: an animated GIF, or a PNG that shows some steps one after the other."""

import io
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gentool.render.tokens import (
    CHANGED,
    FAINT,
    INK,
    MASKED,
    PAPER,
    changed,
    pictures,
    shade,
    shown,
    spread,
    texts,
)
from gentool.trace import Frame, Tokens, Trace, View

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 15  # of letters, in pixels
LINE = 24  # from a line of text to the next
GAP = 8
LEAST = 96  # pixels a side, to which small pictures are blown up
WIDTH = 720  # of a text
COLUMNS = 10  # steps in a PNG
DELAY, REST = 90, 2000  # milliseconds a frame of a GIF is shown, and the last


def gif(trace: Trace) -> tuple[bytes, str]:
    """All samples side by side, a frame for each step; and a warning, empty if all is well."""
    from PIL.Image import Dither, Quantize

    ways = list(trace.samples().values())
    steps = sorted({frame.step for frame in trace.frames})
    sheets = []
    before: list[Frame | None] = [None] * len(ways)
    for step in steps:
        now = [max((f for f in way if f.step <= step), key=lambda f: f.step) for way in ways]
        sheets.append(_sheet(now, before, f"step {step} of {trace.facts['steps']}"))
        before = list(now)
    width, height = (max(sheet.size[axis] for sheet in sheets) for axis in (0, 1))
    frames = [
        _padded(sheet, width, height).quantize(256, Quantize.FASTOCTREE, dither=Dither.NONE)
        for sheet in sheets
    ]
    buffer = io.BytesIO()
    durations = [DELAY] * (len(frames) - 1) + [REST]
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0,
        optimize=False,
    )  # fmt: skip
    return buffer.getvalue(), _unknown_letters(trace)


def png(trace: Trace) -> tuple[bytes, str]:
    """A strip of steps for each sample; and a warning, empty if all is well."""
    strips = [_strip(way) for way in trace.samples().values()]
    buffer = io.BytesIO()
    _stacked(strips, GAP * 2).save(buffer, "PNG")
    return buffer.getvalue(), _unknown_letters(trace)


def _sheet(now: list[Frame], before: list[Frame | None], title: str) -> "Image":
    """One step: pictures in a column for each sample, or texts one below the other."""
    rows = [_text_line(title)]
    names = list(pictures(now[0].view))
    if names:
        images = [pictures(frame.view) for frame in now]
        side = [_blown_up(mine[names[0]]).width for mine in images]
        heads = [_text_line(frame.prompt, width) for frame, width in zip(now, side, strict=True)]
        if any(frame.prompt for frame in now):
            rows.append(_beside([_text_line("", _label_width(names)), *heads]))
        for name in names:
            label = _text_line(name, _label_width(names))
            rows.append(_beside([label, *(_blown_up(mine[name]) for mine in images)]))
    for frame, old in zip(now, before, strict=True):
        found = texts(frame.view)
        if found:
            rows.append(_text_line(_head(frame), color=FAINT))
        for name, tokens in found.items():
            label = _text_line(name, _label_width(list(found)))
            rows.append(_beside([label, _words(tokens, old.view if old else None, name)]))
    return _stacked(rows, GAP // 2)


def _strip(way: list[Frame]) -> "Image":
    """One sample: its pictures from left to right, its texts from top to bottom."""
    chosen = spread(way, COLUMNS)
    rows = [_text_line(_head(way[0]))]
    names = list(pictures(chosen[0].view))
    if names:
        width = _label_width(["step", *names])
        images = [pictures(frame.view) for frame in chosen]
        side = _blown_up(images[0][names[0]]).width
        heads = [_text_line(str(frame.step), side, FAINT) for frame in chosen]
        rows.append(_beside([_text_line("step", width, FAINT), *heads]))
        for name in names:
            cells = [_blown_up(mine[name]) for mine in images]
            rows.append(_beside([_text_line(name, width), *cells]))
    for name in texts(chosen[0].view):
        rows.append(_text_line(name, color=FAINT))
        before: View | None = None
        for frame in chosen:
            label = _text_line(str(frame.step), 40, FAINT)
            rows.append(_beside([label, _words(frame.view.tokens[name], before, name)]))
            before = frame.view
    return _stacked(rows, GAP // 2)


def _head(frame: Frame) -> str:
    return f"sample {frame.sample}" + (f": {frame.prompt}" if frame.prompt else "")


def _words(tokens: Tokens, before: View | None, name: str) -> "Image":
    """A row of words: confidence as shade, changed ones underlined, masked ones in grey boxes."""
    from PIL import Image

    chips: list[tuple[Image.Image, int, int]] = []
    x = y = 0
    for i, word in enumerate(shown(tokens)):
        is_masked, is_new = bool(tokens.masked[i]), changed(before, name, i, word)
        chip = _chip(word, shade(float(tokens.confidence[i])), is_masked, is_new)
        if x + chip.width > WIDTH and x:
            x, y = 0, y + LINE
        chips.append((chip, x, y))
        x += chip.width + 3
    image = Image.new("RGB", (WIDTH, y + LINE), PAPER)
    for chip, x, y in chips:
        image.paste(chip, (x, y))
    return image


@lru_cache(4096)
def _chip(word: str, color: tuple[int, ...], is_masked: bool, is_new: bool) -> "Image":
    """A word on its shade. Most come again and again, and letters are slow to draw."""
    from PIL import Image, ImageDraw

    width = int(_font().getlength(word or "·")) + 8
    image = Image.new("RGB", (width, LINE), PAPER)
    draw = ImageDraw.Draw(image)
    fill = MASKED if is_masked else color if word else PAPER
    draw.rectangle((0, 1, width - 1, LINE - 4), fill=fill, outline=FAINT if is_masked else None)
    draw.text((4, 2), word or "·", fill=FAINT if is_masked or not word else INK, font=_font())
    if is_new:
        draw.line((0, LINE - 3, width, LINE - 3), fill=CHANGED, width=2)
    return image


def _blown_up(image: np.ndarray) -> "Image":
    from PIL import Image

    n = -(-LEAST // max(image.shape[:2]))
    return Image.fromarray(image.repeat(n, axis=0).repeat(n, axis=1))


def _text_line(text: str, width: int = 0, color: tuple[int, ...] = INK) -> "Image":
    """A line of text; cut off where it is wider than `width`, if that is given."""
    from PIL import Image, ImageDraw

    size = (width or int(_font().getlength(text)) + 1, LINE)
    image = Image.new("RGB", size, PAPER)
    ImageDraw.Draw(image).text((0, 2), text, fill=color, font=_font())
    return image


def _label_width(names: list[str]) -> int:
    return max(int(_font().getlength(name)) for name in names) + GAP


def _beside(images: "list[Image]") -> "Image":
    from PIL import Image

    width = sum(image.width + GAP for image in images) - GAP
    sheet = Image.new("RGB", (width, max(image.height for image in images)), PAPER)
    x = 0
    for image in images:
        sheet.paste(image, (x, 0))
        x += image.width + GAP
    return sheet


def _stacked(images: "list[Image]", gap: int) -> "Image":
    """Images one below the other, with a margin around."""
    from PIL import Image

    width = max(image.width for image in images) + 2 * GAP
    height = sum(image.height + gap for image in images) - gap + 2 * GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    y = GAP
    for image in images:
        sheet.paste(image, (GAP, y))
        y += image.height + gap
    return sheet


def _padded(image: "Image", width: int, height: int) -> "Image":
    from PIL import Image

    sheet = Image.new("RGB", (width, height), PAPER)
    sheet.paste(image, (0, 0))
    return sheet


@cache
def _font() -> Any:
    """A font of the system, one with Chinese if there is any, else Pillow's own."""
    from PIL import ImageFont

    for name in (
        *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "PingFang.ttc", "msyh.ttc"),
        *("DejaVuSans.ttf", "Arial.ttf"),
    ):
        try:
            return ImageFont.truetype(name, SIZE)
        except OSError:
            continue
    return ImageFont.load_default(SIZE)


def _unknown_letters(trace: Trace) -> str:
    """A warning where the font lacks letters that the trace has."""
    letters = {
        letter
        for frame in trace.frames
        for text in (frame.prompt, *(w for row in texts(frame.view).values() for w in row.words))
        for letter in text
    }
    box = bytes(_font().getmask("\U0010fffd"))  # what is drawn for a letter that no font has
    unknown = sorted(letter for letter in letters if bytes(_font().getmask(letter)) == box)
    if not unknown:
        return ""
    return f"no font here has {''.join(unknown[:5])!r}: boxes stand in; .html has every letter"
