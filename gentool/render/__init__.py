"""Grids of pictures here; plots, traces, terminal and the page of the tour beside."""

import math
from typing import TYPE_CHECKING

import numpy as np

from gentool.pixels import to_picture

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 2  # pixels between the pictures of a grid


def grid(images: np.ndarray, columns: int | None = None) -> "Image":
    """One picture of N, uint8 [N, H, W, 1 or 3], row by row on white, near square by default."""
    n, height, width, channels = images.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    shape = (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels)
    sheet = np.full(shape, 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    return to_picture(sheet)


def pairs(left: np.ndarray, right: np.ndarray) -> "Image":
    """A grid of pictures, uint8 [N, H, W, C], each beside another of the same shape."""
    both = np.stack([left, right], axis=1)
    return grid(both.reshape(-1, *both.shape[2:]), columns=8)
