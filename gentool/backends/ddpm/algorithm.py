"""Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel 2020), the two algorithms.

`eps_fn(x_t, t) -> eps_hat` is the network: x_t [B, C, H, W] in noise level t [B], the index on the
full chain, 0 the least noisy. Images are in [-1, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import PredictX0

EpsFn = Callable[[Tensor, Tensor], Tensor]


def training_loss(eps_fn: EpsFn, x_0: Tensor, t: Tensor, eps: Tensor, chain: Gaussian) -> Tensor:
    """Algorithm 1, lines 2-5: L_simple (Eq. 14) of each example, [B].

    x_0 [B, C, H, W]; t [B] uniform in 0..T-1; eps [B, C, H, W] standard normal.
    """
    x_t = chain.q_sample(x_0, t, eps)
    eps_hat = eps_fn(x_t, t)
    return (eps - eps_hat).square().mean(dim=(1, 2, 3))


def predict_x_0(eps_fn: EpsFn, chain: Gaussian) -> PredictX0:
    """What the samplers ask for: x_0_hat from eps_hat, clipped to the range of images.

    `chain` may be respaced: step i of it is `chain.timesteps[i]` to the network.
    """

    def predict(x_t: Tensor, i: int) -> Tensor:
        t = torch.full((len(x_t),), int(chain.timesteps[i]), device=x_t.device)
        x_0_hat = chain.x_0_from_eps(x_t, i, eps_fn(x_t, t))
        return x_0_hat.clamp(-1, 1)

    return predict
