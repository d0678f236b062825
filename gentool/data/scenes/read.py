"""Reads a picture: which scene it shows, and whether it shows it well enough to count.

The reader finds the picture of this world that is nearest in squared error, over every scene and
layout there is, and accepts if the two agree by four measures, each with a fixed limit. It never
looks at a caption, a model or another picture.

All but `stray` are taken around one thing at a time and relative to it, and the worst thing counts,
so a small thing has to be as right as a large one.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from gentool.data.scenes.draw import BACKGROUND, CANVAS, STAMP, corners, coverage, render, stamp
from gentool.data.scenes.world import (
    CANONICAL_RELATIONS,
    COLORS,
    MAX_JITTER,
    PLACES,
    SHAPES,
    SIZES,
    Cell,
    Layout,
    Scene,
    Thing,
    cell_choices,
)

# A picture moved by d pixels along one axis differs from itself by about d² times its squared
# gradient along it, half of the whole: 0.065 is a shift of 0.36 pixels. Noise of standard deviation
# 0.03 and a blur of 0.5 pixels stay below 0.05 in 99.9 %; a blur of 1 pixel is above 0.09 in 99 %,
# a small thing half-way between a circle and a square at 0.066 if it is nearer to the circle.
MAX_OUTLINE = 0.065
# 30 % of any other colour of the palette in a thing shifts a channel by 0.19. Blur and shifts keep
# a thing's light, and noise of 0.03 moves it by less than 0.1.
MAX_TINT = 0.12
# One missing pixel of a shape is an error of 0.6 and more, the corners of that half-way thing are
# one of 0.37 where it is nearer to the square. A corner blurred by half a pixel is one of 0.26, one
# moved by a fifth of a pixel in both axes one of 0.32.
MAX_SPOT = 0.36
# Away from things there is nothing to be soft about: six and more deviations of noise of 0.03.
MAX_STRAY = 0.2

CELLS = tuple(product(range(3), range(3)))
OFFSETS = range(-MAX_JITTER, MAX_JITTER + 1)
JITTERS = tuple(product(OFFSETS, OFFSETS))
THINGS = tuple(Thing(*attributes) for attributes in product(SHAPES, COLORS, SIZES))


@dataclass(frozen=True)
class Mismatch:
    """How far a picture is from the nearest one of this world, in the worst place."""

    outline: float  # squared error around a thing per squared gradient of its own picture
    tint: float  # error of a thing's total light per covered pixel, in the worst channel
    spot: float  # largest error of one pixel of a thing or next to it, in the worst channel
    stray: float  # the same of the other pixels

    def is_small(self) -> bool:
        """Whether the picture counts as one of this world."""
        return (
            self.outline <= MAX_OUTLINE
            and self.tint <= MAX_TINT
            and self.spot <= MAX_SPOT
            and self.stray <= MAX_STRAY
        )


def read_scene(image: np.ndarray) -> Scene | None:
    """The canonical scene that `image` shows, or None if it shows none well enough.

    Takes uint8 [32, 32, 3] in 0..255 or floats [3, 32, 32] in [-1, 1].
    """
    light = as_light(image)
    if not np.isfinite(light).all():
        return None
    scene, layout = nearest_scene(light)
    return scene if mismatch(light, scene, layout).is_small() else None


def as_light(image: np.ndarray) -> np.ndarray:
    """Either form of picture as float64 [32, 32, 3] in 0..1."""
    if image.dtype == np.uint8 and image.shape == (CANVAS, CANVAS, 3):
        return image / 255
    if np.issubdtype(image.dtype, np.floating) and image.shape == (3, CANVAS, CANVAS):
        return (image.astype(float).transpose(1, 2, 0) + 1) / 2
    raise ValueError(
        "a picture of scenes is uint8 [32, 32, 3] or float [3, 32, 32], "
        f"not {image.dtype} {list(image.shape)}"
    )


def nearest_scene(light: np.ndarray) -> tuple[Scene, Layout]:
    """The canonical scene and the layout whose picture is nearest to `light` in squared error.

    Things in two cells never share a pixel, so what each takes off the error of an empty canvas
    adds up: the best of all pictures is made of the best thing of each cell.
    """
    rows, columns = _patch_pixels()
    contrast = light - np.array(BACKGROUND) / 255
    patches = contrast[rows, columns].reshape(len(CELLS), len(JITTERS), -1)
    stamps = _stamp_contrasts()
    gains = 2 * patches @ stamps.T - (stamps**2).sum(1)  # [cells, jitters, things]
    gains = gains.reshape(len(CELLS), -1)
    best = gains.argmax(1)
    gain_at = dict(zip(CELLS, gains.max(1), strict=True))

    cells = max(_all_cell_choices(), key=lambda choice: sum(gain_at[cell] for cell in choice))
    chosen = [divmod(int(best[CELLS.index(cell)]), len(THINGS)) for cell in cells]
    layout = Layout(cells, tuple(JITTERS[jitter] for jitter, _ in chosen))
    place, relation = _all_cell_choices()[cells]
    return Scene(tuple(THINGS[thing] for _, thing in chosen), place, relation), layout


def mismatch(light: np.ndarray, scene: Scene, layout: Layout) -> Mismatch:
    """How far `light`, float [32, 32, 3] in 0..1, is from the picture of `scene` as `layout`."""
    error = light - render(scene, layout) / 255
    background = np.ones((CANVAS, CANVAS), bool)
    outline, tint = 0.0, 0.0
    for thing, (top, left) in zip(scene.things, corners(layout), strict=True):
        around = (
            slice(max(top - 1, 0), top + STAMP + 1),
            slice(max(left - 1, 0), left + STAMP + 1),
        )
        background[around] = False
        gradient, area = _outline_energy(thing), coverage(thing.shape, thing.size).sum()
        outline = max(outline, float((error[around] ** 2).sum() / gradient))
        tint = max(tint, float(abs(error[around].sum((0, 1))).max() / area))
    size = abs(error).max(2)
    return Mismatch(outline, tint, float(size[~background].max()), float(size[background].max()))


@lru_cache
def _all_cell_choices() -> dict[tuple[Cell, ...], tuple[str | None, str | None]]:
    """Every choice of cells a scene can take, with the place or relation it stands for."""
    kinds: list[tuple[str | None, str | None]] = [(place, None) for place in PLACES]
    kinds += [(None, relation) for relation in CANONICAL_RELATIONS]
    return {cells: kind for kind in kinds for cells in cell_choices(*kind)}


@lru_cache
def _patch_pixels() -> tuple[np.ndarray, np.ndarray]:
    """Row and column numbers of every patch: int [81, 8, 1] and [81, 1, 8], cell by cell."""
    starts = [corners(Layout((cell,), (jitter,)))[0] for cell in CELLS for jitter in JITTERS]
    tops, lefts = np.array(starts).T
    side = np.arange(STAMP)
    return (tops[:, None] + side)[:, :, None], (lefts[:, None] + side)[:, None, :]


@lru_cache
def _stamp_contrasts() -> np.ndarray:
    """Every thing's patch less the background, in 0..1, float [48, 192]."""
    stamps = np.stack([stamp(thing) for thing in THINGS])
    contrast = (stamps - np.array(BACKGROUND, float)) / 255
    return np.asarray(contrast.reshape(len(THINGS), -1))


@lru_cache
def _outline_energy(thing: Thing) -> float:
    """Sum of squared differences between neighbouring pixels of the picture of `thing`."""
    contrast = (stamp(thing) - np.array(BACKGROUND, float)) / 255
    padded = np.pad(contrast, ((1, 1), (1, 1), (0, 0)))
    return float(sum((np.diff(padded, axis=axis) ** 2).sum() for axis in (0, 1)))
