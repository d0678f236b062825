"""The variational bound on -log p(x_0), term by term, in bits per dimension.

Ho et al. 2020, Eq. 5: L = L_T + sum over t > 1 of L_{t-1} + L_0. All sums over dimensions are
means here, divided by ln 2.
"""

import math

import torch
from torch import Tensor

from gentool.diffusion.gaussian import Gaussian, at

HALF_BIN = 1 / 255  # of 8-bit values in [-1, 1]


def prior_term(chain: Gaussian, x_0: Tensor) -> Tensor:
    """L_T = KL(q(x_T | x_0) || N(0, 1)) of each example, [B]; x_0 [B, ...]."""
    last = chain.T - 1
    mean = at(chain.alpha_bar.sqrt(), last, x_0) * x_0
    log_variance = at((1 - chain.alpha_bar).log(), last, x_0)
    zero = torch.zeros_like(log_variance)
    return _bits(kl_normal(mean, log_variance, zero, zero))


def step_term(
    chain: Gaussian,
    x_0: Tensor,
    x_t: Tensor,
    t: Tensor,
    x_0_hat: Tensor,
    variance: str,
    v: Tensor | None = None,
) -> Tensor:
    """L_{t-1} of each example, [B], and L_0 where t is 0. x_0, x_t, x_0_hat [B, ...]; t [B].

    variance and v: see Gaussian.log_variance. x_0 are 8-bit values scaled to [-1, 1].
    """
    mean, log_variance = _reverse(chain, x_t, t, x_0_hat, variance, v)
    decoder = _bits(-discretized_log_likelihood(x_0, mean, log_variance))
    return torch.where(t == 0, decoder, _kl(chain, x_0, x_t, t, mean, log_variance))


def kl_term(
    chain: Gaussian,
    x_0: Tensor,
    x_t: Tensor,
    t: Tensor,
    x_0_hat: Tensor,
    variance: str,
) -> Tensor:
    """L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) of each example, [B], where t > 0.

    Arguments as for `step_term`; x_0 may be anything.
    """
    return _kl(chain, x_0, x_t, t, *_reverse(chain, x_t, t, x_0_hat, variance))


def _reverse(
    chain: Gaussian,
    x_t: Tensor,
    t: Tensor,
    x_0_hat: Tensor,
    variance: str,
    v: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and log variance of p(x_{t-1} | x_t), [B, ...] both."""
    mean, _ = chain.q_posterior(x_0_hat, x_t, t)
    return mean, chain.log_variance(variance, t, x_t, v).expand_as(mean)


def _kl(
    chain: Gaussian, x_0: Tensor, x_t: Tensor, t: Tensor, mean: Tensor, log_variance: Tensor
) -> Tensor:
    true_mean, _ = chain.q_posterior(x_0, x_t, t)
    true_log_variance = chain.log_variance("fixed_small", t, x_t)
    return _bits(kl_normal(true_mean, true_log_variance, mean, log_variance))


def kl_normal(mean: Tensor, log_variance: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(mean_2, variance_2)) of each element, in nats."""
    difference = log_variance - log_variance_2
    squared = (mean - mean_2).square() * (-log_variance_2).exp()
    return (difference.expm1() - difference + squared) / 2


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log of the probability that N(mean, variance) gives the bin of each x, in nats. Eq. 13.

    The outermost bins reach to infinity. Probabilities below 1e-12 count as that.
    """
    inverse_sigma = (-log_variance / 2).exp()
    below, above = (x - HALF_BIN - mean) * inverse_sigma, (x + HALF_BIN - mean) * inverse_sigma
    below, above = below.masked_fill(x < -0.999, -math.inf), above.masked_fill(x > 0.999, math.inf)
    # Bins over the mean as their mirror images under it: float32 holds 1e-12, but not 1 - 1e-12.
    over = x > mean
    below, above = torch.where(over, -above, below), torch.where(over, -below, above)
    return (_normal_cdf(above) - _normal_cdf(below)).clamp(min=1e-12).log()


def _normal_cdf(z: Tensor) -> Tensor:
    """Precise where it is near 0, which torch.special.ndtr is not."""
    return torch.erfc(-z / math.sqrt(2)) / 2


def _bits(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(dim=1) / math.log(2)
