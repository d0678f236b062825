"""Rectified flow (Liu et al. 2022): straight lines from pictures to noise, and the way back.

`v_fn(x_t, t)` estimates the velocity of x_t [B, C, H, W] at the times t [B] in [0, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor

VFn = Callable[[Tensor, Tensor], Tensor]


def training_loss(v_fn: VFn, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """|v(x_t, t) - (eps - x_0)|^2 with x_t = (1 - t) x_0 + t eps (Eq. 1), mean over pixels: [B]."""
    s = t[:, None, None, None]
    x_t = (1 - s) * x_0 + s * eps
    return (v_fn(x_t, t) - (eps - x_0)).square().mean(dim=(1, 2, 3))


def sample(v_fn: VFn, x: Tensor, steps: int, on_step: Callable[[Tensor], None]) -> Tensor:
    """The Euler method from noise x at t = 1 to a picture at t = 0 (section 2.1)."""
    for step in range(steps):
        t = torch.full((len(x),), 1 - step / steps, device=x.device)
        x = x - v_fn(x, t) / steps
        on_step(x)
    return x
