"""Make the pictures of the docs anew.

python benchmarks/pictures.py
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from gentool.data.scenes import Scenes
from gentool.render import grid

DOCS = Path(__file__).parents[1] / "docs"
NOISE_SCALES = (0.0, 0.5, 1.0, 1.1)


def main() -> None:
    world = Scenes("train")
    enlarged(grid(np.stack([world[i].image for i in range(24)]), columns=8), "scenes.png")
    enlarged(grid(drawn("-n", "64"), columns=16), "ddpm-scenes.png")
    ancestral = ("-n", "12", "--sampler", "ancestral", "--steps", "250")
    rows = [drawn(*ancestral, "--noise-scale", str(scale)) for scale in NOISE_SCALES]
    enlarged(grid(np.concatenate(rows), columns=12), "noise-scale.png")


def drawn(*options: str) -> np.ndarray:
    """Samples of the shipped checkpoint, uint8 [N, 32, 32, 3]."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["gentool", "sample", "ddpm", *options, "--out", f"{folder}/x.npy", "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        x = np.load(f"{folder}/x.npy")
    return np.rint((x + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)


def enlarged(picture: Image.Image, name: str) -> None:
    """Save at twice the size, pixels kept square."""
    size = (2 * picture.width, 2 * picture.height)
    picture.resize(size, Image.Resampling.NEAREST).save(DOCS / name, optimize=True)


main()
