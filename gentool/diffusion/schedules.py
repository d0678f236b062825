"""Noise schedules: beta_t for t = 0..T-1, float64."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gentool.diffusion.gaussian import Gaussian
from gentool.errors import UsageError


def linear_betas(T: int) -> Tensor:
    """Ho et al. 2020, section 4: 1e-4 to 0.02 at T = 1000; both ends scale with 1000 / T. [T]"""
    scale = 1000 / T
    return torch.linspace(scale * 1e-4, scale * 0.02, T, dtype=torch.float64)


def cosine_betas(T: int) -> Tensor:
    """Nichol & Dhariwal 2021, Eq. 17: alpha_bar falls as a squared cosine, beta <= 0.999. [T]"""
    return _betas(lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2, T)


def sqrt_betas(T: int) -> Tensor:
    """Li et al. 2022, appendix A: alpha_bar ~ 1 - sqrt(t / T + 1e-4), beta <= 0.999.

    For embeddings, where a little noise changes nothing: it rises steeply at once. The authors'
    code divides by the value at 0, so that alpha_bar begins at 0.985 for T = 2000. [T]
    """
    return _betas(lambda u: 1 - math.sqrt(u + 1e-4), T)


def _betas(alpha_bar: Callable[[float], float], T: int) -> Tensor:
    """The chain in which alpha_bar is that function of t / T, but for a factor. [T]"""
    betas = [min(1 - alpha_bar((t + 1) / T) / alpha_bar(t / T), 0.999) for t in range(T)]
    return torch.tensor(betas, dtype=torch.float64)


def shifted_betas(betas: Tensor, shift: float) -> Tensor:
    """The chain whose signal-to-noise ratio is that of `betas` divided by shift². [T]

    Hoogeboom et al. 2023, section 3.1: what is large in a picture is seen through more noise, so
    its chain needs more of it.
    """
    if shift == 1:
        return betas
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    alpha_bar = alpha_bar / (alpha_bar + shift**2 * (1 - alpha_bar))
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    return 1 - alpha_bar / before


def noise_chain(schedule: str, T: int, shift: float = 1.0) -> Gaussian:
    """The forward chain of `schedule`, one of SCHEDULES. Raises UsageError for too few steps."""
    try:
        return Gaussian(shifted_betas(SCHEDULES[schedule](T), shift))
    except ValueError as error:
        raise UsageError(
            f"diffusion.T {T} is too short for the {schedule} schedule: {error}",
            "a larger diffusion.T, or the cosine schedule",
        ) from None


SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_betas,
    "cosine": cosine_betas,
    "sqrt": sqrt_betas,
}
