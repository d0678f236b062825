"""Draws a scene: uint8 pictures of 32×32 pixels, anti-aliased, in a few microseconds."""

from functools import lru_cache

import numpy as np

from gentool.data.scenes.world import Layout, Scene, Thing

CANVAS = 32  # pixels a side
BACKGROUND = (16, 18, 26)
PALETTE = {
    "red": (235, 40, 40),
    "green": (40, 200, 60),
    "blue": (40, 90, 255),
    "yellow": (255, 225, 40),
    "purple": (200, 40, 235),
    "white": (255, 255, 255),
}

# Centres of the rows and columns, in pixels from the edge. With a jitter of 1 and a half-width of
# 4, a thing reaches the canvas edge but never crosses it, and two keep a gap of at least 1 pixel.
CENTERS = (5, 16, 27)
HALF_WIDTH = {"small": 2.5, "large": 4.0}  # pixels
OFFSET = {"small": 0.5, "large": 0.0}  # puts the sides of both sizes on whole pixels
STAMP = 8  # side of the patch that holds any thing: centres are whole numbers, so one fits all
SUPERSAMPLING = 16  # sub-pixels a side


@lru_cache
def coverage(shape: str, size: str) -> np.ndarray:
    """How much of each pixel the shape covers, float64 [8, 8] in 0..1."""
    steps = (np.arange(STAMP * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - STAMP / 2
    steps = (steps - OFFSET[size]) / HALF_WIDTH[size]
    y, x = np.meshgrid(steps, steps, indexing="ij")
    box = np.maximum(abs(x), abs(y)) <= 1
    inside = {
        "circle": x**2 + y**2 <= 1,
        "square": box,
        "triangle": box & (abs(x) <= (y + 1) / 2),
        "cross": box & (np.minimum(abs(x), abs(y)) <= 0.25),
    }[shape]
    blocks = inside.reshape(STAMP, SUPERSAMPLING, STAMP, SUPERSAMPLING)
    return np.asarray(blocks.mean(axis=(1, 3)))


@lru_cache
def stamp(thing: Thing) -> np.ndarray:
    """The patch of pixels that shows `thing`, uint8 [8, 8, 3]."""
    background = np.array(BACKGROUND, float)
    contrast = np.array(PALETTE[thing.color]) - background
    pixels = background + coverage(thing.shape, thing.size)[:, :, None] * contrast
    return np.asarray(pixels.round(), np.uint8)


def corners(layout: Layout) -> list[tuple[int, int]]:
    """The top left pixel (row, column) of each thing's patch."""
    return [
        (CENTERS[row] + down - STAMP // 2, CENTERS[column] + right - STAMP // 2)
        for (row, column), (down, right) in zip(layout.cells, layout.jitters, strict=True)
    ]


def render(scene: Scene, layout: Layout) -> np.ndarray:
    """The picture of `scene` laid out as `layout`, uint8 [32, 32, 3]."""
    picture = np.empty((CANVAS, CANVAS, 3), np.uint8)
    picture[:] = BACKGROUND
    for thing, (top, left) in zip(scene.things, corners(layout), strict=True):
        picture[top : top + STAMP, left : left + STAMP] = stamp(thing)
    return picture
