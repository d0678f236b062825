"""What a network is told of the noise level."""

import math

import torch
from torch import Tensor


def timestep_features(t: Tensor, n: int, order: str = "sin_cos", shift: int = 1) -> Tensor:
    """Sines and cosines of t at n/2 frequencies from 1 to 1/10000. t [B] -> [B, n] float32.

    order: `sin_cos` or `cos_sin`, which half comes first. shift: 1, or 0 for the first n/2 of
    n/2 + 1 such frequencies.
    """
    half = n // 2
    frequencies = torch.exp(
        -math.log(10_000) / (half - shift) * torch.arange(half, device=t.device)
    )
    angles = t.float()[:, None] * frequencies[None]
    waves = [angles.sin(), angles.cos()]
    return torch.cat(waves if order == "sin_cos" else waves[::-1], dim=1)
