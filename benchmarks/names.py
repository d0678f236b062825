"""The sheet of names and pictures in the docs: 64 names that a run never saw, drawn by it.

python benchmarks/names.py runs/ddpm-emoji-text
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gentool.checkpoint.load import load_checkpoint

DOCS = Path(__file__).parents[1] / "docs"
COLUMNS, ROWS = 8, 8
SIDE, WORDS, GAP = 64, 32, 16  # pixels of a picture, of the lines below it, and between


def main(run: str) -> None:
    loaded = load_checkpoint(Path(run), "ddpm")
    held_out = loaded.backend.sources()[1]
    names = [held_out[i].caption for i in range(COLUMNS * ROWS)]
    width, height = SIDE + GAP, SIDE + WORDS
    sheet = Image.new("RGB", (COLUMNS * width, ROWS * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(9)
    with tempfile.TemporaryDirectory() as folder:
        command = ["gentool", "decode", "ddpm", "-c", run, "--out", f"{folder}/x.npy", "--quiet"]
        subprocess.run(command, input="\n".join(names), text=True, check=True)
        pictures = np.load(f"{folder}/x.npy").transpose(0, 2, 3, 1)  # [N, H, W, C]
    for i, (name, x) in enumerate(zip(names, pictures, strict=True)):
        left, top = i % COLUMNS * width, i // COLUMNS * height
        picture = Image.fromarray(((x + 1) * 127.5).round().astype(np.uint8))
        sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top))
        draw.multiline_text((left, top + SIDE), folded(name, 14), "black", font, spacing=0)
    sheet.save(DOCS / "emoji-names.png", optimize=True)


def folded(name: str, width: int) -> str:
    """`name` in at most three lines of about `width` letters."""
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:3])


main(*sys.argv[1:])
