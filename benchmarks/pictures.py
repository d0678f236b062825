"""Make the pictures of the docs anew.

python benchmarks/pictures.py [NAME ...]

All of them, or those named: scenes, ddpm-scenes, noise-scale, how-ddpm, how-mvtm, how-diffusion-lm,
how-mask-predict. They are drawn by the shipped checkpoints; Chinese needs a font that has it.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from gentool.data.scenes import Scenes
from gentool.render import grid
from gentool.render.animation import DELAY, REST

DOCS = Path(__file__).parents[1] / "docs"
NOISE_SCALES = (0.0, 0.5, 1.0, 1.1)
PICTURE = "a small red circle in the top left"
SENTENCE = "a large blue cross is above a small yellow circle"
COLORS = 256  # of the pictures of traces


def scenes() -> None:
    world = Scenes("train")
    enlarged(grid(np.stack([world[i].image for i in range(24)]), columns=8), "scenes.png")


def samples() -> None:
    held_out = Scenes("test")
    captions = [f"{held_out[i].caption}\n" for i in range(64)]
    enlarged(grid(drawn("decode", captions=captions), columns=16), "ddpm-scenes.png")


def noise_scale() -> None:
    ancestral = ("sample", "-n", "12", "--sampler", "ancestral", "--steps", "250")
    rows = [drawn(*ancestral, "--noise-scale", str(scale)) for scale in NOISE_SCALES]
    enlarged(grid(np.concatenate(rows), columns=12), "noise-scale.png")


def how(backend: str, text: str) -> None:
    """How the output for a line of text came about, some steps of it."""
    with tempfile.TemporaryDirectory() as folder:
        out = ("--out", f"{folder}/out.png")
        command = ["gentool", "decode", backend, *out, "--trace", f"{folder}/how.png", "--quiet"]
        given = {"input": f"{text}\n", "text": True}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **given)
        image = Image.open(f"{folder}/how.png").convert("RGB")
        few(image, COLORS).save(DOCS / f"how-{backend}.png", optimize=True)


def moving(backend: str) -> None:
    """How a sample came about, every third frame of it."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["gentool", "sample", backend, "-n", "1", "--trace", f"{folder}/how.gif", "-q"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        film = Image.open(f"{folder}/how.gif")
        frames = []
        for number in (*range(0, film.n_frames - 1, 3), film.n_frames - 1):
            film.seek(number)
            frames.append(few(film.convert("RGB"), 16))
        durations = [3 * DELAY] * (len(frames) - 1) + [REST]
        frames[0].save(
            DOCS / f"how-{backend}.gif", save_all=True, append_images=frames[1:],
            duration=durations, loop=0, optimize=True,
        )  # fmt: skip


def few(image: Image.Image, colors: int) -> Image.Image:
    """The picture in so many colours, for a small file."""
    return image.quantize(colors, dither=Image.Dither.NONE)


def drawn(verb: str, *options: str, captions: Sequence[str] = ()) -> np.ndarray:
    """What the shipped checkpoint draws, uint8 [N, 32, 32, 3]."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["gentool", verb, "ddpm", *options, "--out", f"{folder}/x.npy", "--quiet"]
        given = {"input": "".join(captions), "text": True}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **given)
        x = np.load(f"{folder}/x.npy")
    return np.rint((x + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)


def enlarged(picture: Image.Image, name: str) -> None:
    """Save at twice the size, pixels kept square."""
    size = (2 * picture.width, 2 * picture.height)
    picture.resize(size, Image.Resampling.NEAREST).save(DOCS / name, optimize=True)


PICTURES: dict[str, Callable[[], None]] = {
    "scenes": scenes,
    "ddpm-scenes": samples,
    "noise-scale": noise_scale,
    "how-ddpm": partial(how, "ddpm", PICTURE),
    "how-mvtm": partial(how, "mvtm", PICTURE),
    "how-diffusion-lm": partial(moving, "diffusion-lm"),
    "how-mask-predict": partial(how, "mask-predict", SENTENCE),
}
for name in sys.argv[1:] or PICTURES:
    PICTURES[name]()
