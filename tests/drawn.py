"""Scenes of the built-in world, with where their things stand."""

import numpy as np

from gentool.data.scenes import SPLITS, Layout, Scene, draw_scene

Drawn = tuple[Scene, Layout]


def draws(n: int, seed: int = 0) -> list[Drawn]:
    """Scenes of the three splits in turn."""
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, SPLITS[i % 3]) for i in range(n)]


def two_things(n: int, seed: int = 0) -> list[Drawn]:
    """Scenes of two things."""
    return [drawn for drawn in draws(4 * n, seed) if len(drawn[0].things) == 2][:n]
