"""Samplers: from pure noise back to data, one function per published algorithm.

A sampler walks a (possibly respaced) chain from its noisiest step to step 0. It is given
`predict_x_0(x_t, t) -> x_0_hat`, so it knows neither the network nor how that is parametrised,
and `rng`, which draws noise for every member of the batch from that member's own generator.
`on_step(i, x_t, x_0_hat)` is called after each step with what is left to do.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from gentool.diffusion.gaussian import Gaussian, at

PredictX0 = Callable[[Tensor, int], Tensor]
OnStep = Callable[[int, Tensor, Tensor], None]


class Noise(Protocol):
    """What a sampler draws from (gentool.rng.BatchRng)."""

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise, [B, *shape] on the CPU."""
        ...


def ancestral(
    predict_x_0: PredictX0,
    x_T: Tensor,
    chain: Gaussian,
    rng: Noise,
    *,
    variance: str = "fixed_large",
    noise_scale: float = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Ho et al. 2020, Algorithm 2. x_T: [B, ...] standard normal; returns x_0 [B, ...].

    variance: sigma_t^2 is beta_t (`fixed_large`) or beta_tilde_t (`fixed_small`), section 3.2.
    noise_scale: factor on the noise added at each step; the algorithm's is 1.
    """
    if variance not in VARIANCES:
        raise ValueError(f"variance must be one of {', '.join(VARIANCES)}, got {variance!r}")
    x_t = x_T
    for t in reversed(range(chain.T)):
        x_0_hat = predict_x_0(x_t, t)
        x_t, beta_tilde = chain.q_posterior(x_0_hat, x_t, t)  # Eq. 7
        if t > 0:  # z = 0 at the last step
            sigma_t = (at(chain.beta, t, x_t) if variance == "fixed_large" else beta_tilde).sqrt()
            x_t = x_t + noise_scale * sigma_t * rng.normal(*x_t.shape[1:]).to(x_t)
        if on_step:
            on_step(t, x_t, x_0_hat)
    return x_t


def ddim(
    predict_x_0: PredictX0,
    x_T: Tensor,
    chain: Gaussian,
    rng: Noise,
    *,
    eta: float = 0.0,
    noise_scale: float = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Song et al. 2021, Eq. 12: deterministic at eta = 0, ancestral (fixed small) at eta = 1.

    x_T: [B, ...] standard normal; returns x_0 [B, ...]. noise_scale: factor on the noise added.
    """
    sigma = eta * chain.beta_tilde.sqrt()  # Eq. 16
    # In float64: at eta = 1 this is 0 up to rounding where alpha_bar is near 0.
    direction = (1 - chain.alpha_bar_prev - sigma**2).clamp(min=0).sqrt()
    x_t = x_T
    for t in reversed(range(chain.T)):
        x_0_hat = predict_x_0(x_t, t)
        # The noise that agrees with x_0_hat: the network's own would not, once x_0_hat is clipped.
        eps_hat = chain.eps_from_x_0(x_t, t, x_0_hat)
        x_t = at(chain.alpha_bar_prev.sqrt(), t, x_t) * x_0_hat + at(direction, t, x_t) * eps_hat
        if t > 0 and eta > 0:
            x_t = x_t + noise_scale * at(sigma, t, x_t) * rng.normal(*x_t.shape[1:]).to(x_t)
        if on_step:
            on_step(t, x_t, x_0_hat)
    return x_t


VARIANCES = ("fixed_large", "fixed_small")
