"""Plug-and-play control (Li et al. 2022, section 5.1): a classifier steers what the model writes.

What each step of a sampler drew, x_{t-1} ~ p(x_{t-1} | x_t), is moved by a few gradient steps to
where the control is likelier, log p(c | x_{t-1}), without leaving where the model would write it,
log p(x_{t-1} | x_t), the fluency term. The model itself is not trained for it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import Steer

ALONE = 0.05  # last share of the steps without control: 10 of 200 in the authors' code
ControlNll = Callable[[Tensor, Tensor], Tensor]
"""-log p(c | x_t) in nats, [B], of x_t [B, L, d] at level t [B] of the full chain."""


def steering(
    control_nll: ControlNll,
    chain: Gaussian,
    *,
    guidance_scale: float = 1.0,
    fluency: float = 0.01,
    steps: int = 3,
    rate: float = 0.1,
    known: Tensor | None = None,
) -> Steer:
    """What a sampler over `chain` does to x_{t-1} after each step: `steps` updates that lower

        J = guidance_scale -log p(c | x) + fluency |x - mean|^2 / sigma

    as in the authors' code, where sigma is not squared, and 1 in a step without noise. What is
    known [B, L] (bool) stays where it is.
    """

    def steer(i: int, x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
        if i < ALONE * chain.T:
            return x
        t = torch.full((len(x),), int(chain.timesteps[i - 1]), device=x.device)
        spread = torch.where(sigma > 0, sigma, torch.ones_like(sigma))
        for _ in range(steps):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                away = ((x - mean).square() / spread).sum(dim=(1, 2))
                J = guidance_scale * control_nll(x, t) + fluency * away
                (g,) = torch.autograd.grad(J.sum(), x)
            step = rate * adagrad_step(g)
            x = x.detach() - (step if known is None else step.masked_fill(known[:, :, None], 0))
        return x

    return steer


def adagrad_step(g: Tensor) -> Tensor:
    """The first step of a fresh Adagrad, which the authors make anew for every update: the sign of
    the gradient g [B, L, d].

    Adagrad's epsilon of 1e-10 is a hundredth of the example's root mean square here, so that
    rounding, which depends on the batch, cannot turn a step around.
    """
    rms = g.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return g / (g.abs() + 0.01 * rms + 1e-20)
