"""Noise for tests of the algorithms: float64, seeded, counted."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from gentool.diffusion.samplers import Denoised

SHAPE = (2, 3, 4, 4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def noise(seed: int = 0, batch: int = SHAPE[0], dtype: torch.dtype = torch.float64) -> Any:
    """A source of noise that keeps its draws in `drawn`."""
    generator, drawn = torch.Generator().manual_seed(seed), list[Tensor]()

    def draw(*shape: int) -> Tensor:
        drawn.append(torch.randn((batch, *shape), dtype=dtype, generator=generator))
        return drawn[-1]

    return SimpleNamespace(normal=draw, drawn=drawn)


def ones() -> Any:
    return SimpleNamespace(normal=lambda *shape: torch.ones(SHAPE[0], *shape, dtype=torch.float64))


def no_noise() -> Any:
    def refuse(*shape: int) -> Tensor:
        raise AssertionError("noise was drawn")

    return SimpleNamespace(normal=refuse)


def clipped(x_t: Tensor, t: int) -> Denoised:
    """A guess that depends on x_t and t and is often clipped."""
    return Denoised((1.5 * x_t + 0.01 * t).clamp(-1, 1))


def to_zero(x_t: Tensor, t: int) -> Denoised:
    return Denoised(0 * x_t)


def trace(sampler: Any, *args: Any, **options: Any) -> list[Tensor]:
    """x_t after each step, from x_T to x_0."""
    states = [args[1]]
    sampler(*args, **options, on_step=lambda _, x_t, __: states.append(x_t))
    return states
