"""What tests of image data share: pictures of noise, and files and folders of them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(pixels, form="PNG", **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def classes(folder: Path, per_class: int = 3) -> Path:
    """cat/0.png, ... and dog/0.png, ...; picture number n has seed n."""
    for c, name in enumerate(("cat", "dog")):
        for i in range(per_class):
            write(folder / name / f"{i}.png", encoded(picture(per_class * c + i)))
    return folder
