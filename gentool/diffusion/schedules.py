"""Noise schedules: beta_t for t = 0..T-1, float64."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def linear_betas(T: int) -> Tensor:
    """Ho et al. 2020, section 4: 1e-4 to 0.02 at T = 1000; both ends scale with 1000 / T. [T]"""
    scale = 1000 / T
    return torch.linspace(scale * 1e-4, scale * 0.02, T, dtype=torch.float64)


def cosine_betas(T: int) -> Tensor:
    """Nichol & Dhariwal 2021, Eq. 17: alpha_bar falls as a squared cosine, beta <= 0.999. [T]"""

    def f(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - f((t + 1) / T) / f(t / T), 0.999) for t in range(T)]
    return torch.tensor(betas, dtype=torch.float64)


SCHEDULES: dict[str, Callable[[int], Tensor]] = {"linear": linear_betas, "cosine": cosine_betas}
