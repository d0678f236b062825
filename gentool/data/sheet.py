"""What `gentool data show` shows: numbered pictures, and a line of text for each."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from gentool.data.source import Example
from gentool.pixels import to_picture

CELL = 128  # pixels; a picture is brought to at most this size
SMALL = 64  # pixels; a picture up to this size is enlarged, its pixels kept square
GAP = 4
LINE = 14  # height of a number in Pillow's default font


def contact_sheet(numbers: Sequence[int], examples: Sequence[Example], columns: int) -> Image.Image:
    """The examples on white, row by row, each with its number above it."""
    columns = min(columns, len(examples))
    rows = math.ceil(len(examples) / columns)
    size = (columns * (CELL + GAP) + GAP, rows * (LINE + CELL + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, (number, example) in enumerate(zip(numbers, examples, strict=True)):
        left = GAP + i % columns * (CELL + GAP)
        top = GAP + i // columns * (LINE + CELL + GAP)
        draw.text((left, top), str(number), fill="black")
        sheet.paste(_thumbnail(example), (left, top + LINE))
    return sheet


def describe(number: int, example: Example, labels: Sequence[str]) -> str:
    """`17  cat  a cat on a mat`: number, class and caption, whatever of them there is."""
    label = "" if example.label is None else labels[example.label]
    line = "  ".join(part for part in (str(number), label, example.caption) if part)
    # Captions come from anywhere: no escape sequence may reach the terminal.
    return "".join(char if char.isprintable() else " " for char in line)


def _thumbnail(example: Example) -> Image.Image:
    picture = to_picture(example.image)
    longer = max(picture.size)
    if longer <= SMALL:
        factor = CELL // longer
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Image.Resampling.NEAREST)
    picture.thumbnail((CELL, CELL))
    return picture
