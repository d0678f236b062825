"""Samplers: from pure noise back to data, one function per published algorithm.

A sampler walks a (possibly respaced) chain from its noisiest step to step 0. It is given
`denoise(x_t, t)`, so it knows neither the network nor how that is parametrised, and `rng`, which
draws noise for every member of the batch from that member's own generator.
`steer` may move what a step drew, and `on_step(i, x_t, x_0_hat)` is called after each step with
what is left to do.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gentool.diffusion.config import Denoising
from gentool.diffusion.gaussian import Gaussian, at


class Denoised(NamedTuple):
    """What a network makes of x_t."""

    x_0: Tensor  # x_0_hat [B, ...]
    v: Tensor | None = None  # where the variance is learned: [B, ...], see Gaussian.log_variance


Denoise = Callable[[Tensor, int], Denoised]
OnStep = Callable[[int, Tensor, Tensor], None]
Steer = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""steer(t, x, mean, sigma): what is gone on with in place of x, drawn at step t > 0 from
N(mean, sigma^2); all [B, ...] or broadcasting."""


class Noise(Protocol):
    """What a sampler draws from (gentool.rng.BatchRng)."""

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise, [B, *shape] on the CPU."""
        ...


def ancestral(
    denoise: Denoise,
    x_T: Tensor,
    chain: Gaussian,
    rng: Noise,
    *,
    variance: str = "fixed_large",
    noise_scale: float = 1.0,
    steer: Steer | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Ho et al. 2020, Algorithm 2. x_T: [B, ...] standard normal; returns x_0 [B, ...].

    variance: that of p(x_{t-1} | x_t), see Gaussian.log_variance.
    noise_scale: factor on the noise added at each step; the algorithm's is 1.
    """
    x_t = x_T
    for t in reversed(range(chain.T)):
        denoised = denoise(x_t, t)
        x_t = _ancestral_step(denoised, x_t, t, chain, rng, variance, noise_scale, steer)
        if on_step:
            on_step(t, x_t, denoised.x_0)
    return x_t


def _ancestral_step(
    denoised: Denoised,
    x_t: Tensor,
    t: int,
    chain: Gaussian,
    rng: Noise,
    variance: str,
    noise_scale: float,
    steer: Steer | None = None,
) -> Tensor:
    """x_{t-1} ~ p(x_{t-1} | x_t)."""
    log_variance = chain.log_variance(variance, t, x_t, denoised.v)
    mean, _ = chain.q_posterior(denoised.x_0, x_t, t)  # Eq. 7
    if t == 0:  # z = 0 at the last step
        return mean
    z = rng.normal(*x_t.shape[1:]).to(x_t)
    sigma = noise_scale * (log_variance / 2).exp()
    x = mean + sigma * z
    return steer(t, x, mean, sigma) if steer else x


def ddim(
    denoise: Denoise,
    x_T: Tensor,
    chain: Gaussian,
    rng: Noise,
    *,
    eta: float = 0.0,
    noise_scale: float = 1.0,
    steer: Steer | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Song et al. 2021, Eq. 12: deterministic at eta = 0, ancestral (fixed small) at eta = 1, with
    more noise than the chain's above that, as far as Eq. 12 has room for it.

    x_T: [B, ...] standard normal; returns x_0 [B, ...]. noise_scale: factor on the noise added.
    """
    sigma = eta * chain.beta_tilde.sqrt()  # Eq. 16
    sigma = torch.minimum(sigma, (1 - chain.alpha_bar_prev).sqrt())
    # In float64: at eta = 1 this is 0 up to rounding where alpha_bar is near 0.
    direction = (1 - chain.alpha_bar_prev - sigma**2).clamp(min=0).sqrt()
    x_t = x_T
    for t in reversed(range(chain.T)):
        x_0_hat = denoise(x_t, t).x_0
        # The noise that agrees with x_0_hat: the network's own would not, once x_0_hat is clipped.
        eps_hat = chain.eps_from_x_0(x_t, t, x_0_hat)
        mean = at(chain.alpha_bar_prev.sqrt(), t, x_t) * x_0_hat + at(direction, t, x_t) * eps_hat
        spread = noise_scale * at(sigma, t, x_t)
        x_t = mean
        if t > 0 and eta > 0:
            x_t = mean + spread * rng.normal(*x_t.shape[1:]).to(x_t)
        if t > 0 and steer:
            x_t = steer(t, x_t, mean, spread)
        if on_step:
            on_step(t, x_t, x_0_hat)
    return x_t


def dpm_solver_pp(
    denoise: Denoise,
    x_T: Tensor,
    chain: Gaussian,
    rng: Noise,
    *,
    eta: float = 0.0,
    noise_scale: float = 1.0,
    steer: Steer | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022b: of second order. Their Algorithm 2 at eta = 0, without
    noise; at eta = 1 the same of the reverse SDE (section 5, SDE-DPM-Solver++(2M)); between and
    above, of the SDE with eta times the noise's variance (Xue et al. 2023, tau^2 = eta),
    which has the same marginals: errors of the steps before are drowned in what is drawn anew.

    x_T: [B, ...] standard normal; returns x_0 [B, ...]. noise_scale: factor on the noise added.
    The first step is of first order (DDIM), and so is the last, which ends without noise: there
    h is infinite.
    """
    alpha, sigma = chain.alpha_bar.sqrt(), (1 - chain.alpha_bar).sqrt()
    lam = alpha.log() - sigma.log()  # half the log of the signal-to-noise ratio
    x_t = x_T
    x_0_before: Tensor | None = None  # x_0_hat of the step before this one
    for t in reversed(range(chain.T)):
        x_0_hat = denoise(x_t, t).x_0
        if t == 0:
            x_t = x_0_hat
        else:
            h = lam[t - 1] - lam[t]
            D = x_0_hat
            if x_0_before is not None:
                r = (lam[t] - lam[t + 1]) / h
                D = x_0_hat + (x_0_hat - x_0_before) * float(1 / (2 * r))
            stays = sigma[t - 1] / sigma[t] * torch.exp(-eta * h)
            mean = float(stays) * x_t - float(alpha[t - 1] * torch.expm1(-(1 + eta) * h)) * D
            added = sigma[t - 1] * (-torch.expm1(-2 * eta * h)).sqrt()  # what `stays` lacks
            spread = noise_scale * added.to(mean)
            x_t = mean
            if eta > 0:
                x_t = mean + spread * rng.normal(*x_t.shape[1:]).to(x_t)
            x_t = steer(t, x_t, mean, spread) if steer else x_t
        x_0_before = x_0_hat
        if on_step:
            on_step(t, x_t, x_0_hat)
    return x_t


def repaint(
    denoise: Denoise,
    x_T: Tensor,
    chain: Gaussian,
    rng: Noise,
    *,
    x_0: Tensor,
    hole: Tensor,
    jump: int = 10,
    resample: int = 10,
    variance: str = "fixed_large",
    noise_scale: float = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Lugmayr et al. 2022 (RePaint), Algorithm 1: draws what is in the hole to fit what is not.

    x_T, x_0: [B, ...]; hole: bool, broadcasting over them, true where x_0 is not known. Outside of
    it the result is x_0 itself. Every stretch of `jump` steps is walked `resample` times, the
    picture noised again in between; resample 1 only keeps the known part in place.
    """
    x_t = x_T
    for low in reversed(range(0, chain.T, jump)):
        high = min(low + jump, chain.T)
        for time in range(resample):
            if time > 0:  # back up, from x_{low-1} to x_{high-1}
                kept = chain.alpha_bar[high - 1] / chain.alpha_bar_prev[low]
                z = rng.normal(*x_t.shape[1:]).to(x_t)
                x_t = float(kept.sqrt()) * x_t + float((1 - kept).sqrt()) * z
            for t in reversed(range(low, high)):
                denoised = denoise(x_t, t)
                x_t = _ancestral_step(denoised, x_t, t, chain, rng, variance, noise_scale)
                known = x_0
                if t > 0:
                    known = chain.q_sample(x_0, t - 1, rng.normal(*x_t.shape[1:]).to(x_t))
                x_t = torch.where(hole, x_t, known)  # Algorithm 1, line 8
                if on_step:
                    on_step(t, x_t, denoised.x_0)
    return x_t


def sample(
    denoise: Denoise,
    x_T: Tensor,
    chain: Gaussian,
    rng: Noise,
    how: Denoising,
    *,
    variance: str,
    steer: Steer | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """x_0 [B, ...] by the sampler that `how` names. variance: of the ancestral one."""
    if how.sampler == "dpm++":
        return dpm_solver_pp(
            denoise, x_T, chain, rng,
            eta=how.eta, noise_scale=how.noise_scale, steer=steer, on_step=on_step,
        )  # fmt: skip
    if how.sampler == "ddim":
        return ddim(
            denoise, x_T, chain, rng,
            eta=how.eta, noise_scale=how.noise_scale, steer=steer, on_step=on_step,
        )  # fmt: skip
    if how.sampler == "ancestral":
        return ancestral(
            denoise, x_T, chain, rng,
            variance=variance, noise_scale=how.noise_scale, steer=steer, on_step=on_step,
        )  # fmt: skip
    raise ValueError(f"no sampler {how.sampler!r}")
