"""The forward chain q(x_1, ..., x_T | x_0) and its posterior, in closed form.

`t` runs over 0..T-1 and 0 is the least noisy step, so the papers' t is ours + 1. Equation numbers
are those of Ho et al. 2020, "Denoising Diffusion Probabilistic Models". Tables are float64; a
coefficient is cast to the dtype of the tensor it meets.
"""

import torch
from torch import Tensor


class Gaussian:
    """A chain with given betas; `timesteps[i]` is what the network is told at step i.

    On the full chain `timesteps` is 0..T-1; a respaced chain keeps the original indices.
    """

    def __init__(self, betas: Tensor, timesteps: Tensor | None = None) -> None:
        """betas: [T] float64, each in (0, 1), else ValueError; timesteps: [T] int64."""
        assert betas.dtype == torch.float64
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(f"betas must lie between 0 and 1, the last is {betas[-1]:.3g}")
        self.T = len(betas)
        self.timesteps = torch.arange(self.T) if timesteps is None else timesteps
        one = torch.ones(1, dtype=torch.float64)
        self.beta = betas
        self.alpha = 1 - betas
        self.alpha_bar = torch.cumprod(self.alpha, dim=0)
        self.alpha_bar_prev = torch.cat([one, self.alpha_bar[:-1]])
        # Eq. 7. The first posterior variance is 0: at t = 0 the posterior is x_0 itself.
        self.beta_tilde = betas * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)
        # Where a logarithm is needed the step after stands in for that 0, as in Ho's code.
        self.log_beta_tilde = torch.cat([self.beta_tilde[1:2], self.beta_tilde[1:]]).log()
        if self.T == 1:
            self.log_beta_tilde = betas.log()
        self.snr = self.alpha_bar / (1 - self.alpha_bar)
        self.mu_x_0 = self.alpha_bar_prev.sqrt() * betas / (1 - self.alpha_bar)
        self.mu_x_t = self.alpha.sqrt() * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)

    def respaced(self, steps: int, spacing: str = "trailing") -> "Gaussian":
        """The same process visited at `steps` of its T steps.

        spacing: `trailing` is even and includes the last step, so that sampling starts from pure
        noise (Lin et al. 2024, section 3.3); `leading` is even and includes the first instead, as
        DDIM's code does; `quadratic` is trailing too, and the less noise the closer (Song et al.
        2021, appendix D.2), but for no step twice.
        Nichol & Dhariwal 2021, Eq. 19: beta'_i = 1 - alpha_bar[S_i] / alpha_bar[S_{i-1}].
        """
        if not 1 <= steps <= self.T:
            raise ValueError(f"steps must be in 1..{self.T}, got {steps}")
        if spacing not in SPACINGS:
            raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")
        if steps == self.T:
            return self
        i = torch.arange(steps, dtype=torch.float64)
        if spacing == "trailing":
            S = self.T - 1 - ((steps - 1 - i) * self.T / steps).round().long()
        elif spacing == "quadratic":
            S = torch.maximum(self.T * ((i + 1) / steps) ** 2 - 0.5, i).floor().long()
        else:
            S = (i * (self.T // steps)).long()
        alpha_bar = self.alpha_bar[S]
        one = torch.ones(1, dtype=torch.float64)
        betas = 1 - alpha_bar / torch.cat([one, alpha_bar[:-1]])
        return Gaussian(betas, self.timesteps[S])

    def q_sample(self, x_0: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0) made from the noise eps. All [B, ...]; t [B] or int. Eq. 4."""
        return (
            at(self.alpha_bar.sqrt(), t, x_0) * x_0 + at((1 - self.alpha_bar).sqrt(), t, x_0) * eps
        )

    def q_posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """Mean mu_tilde [B, ...] and variance beta_tilde of q(x_{t-1} | x_t, x_0). Eq. 6 and 7."""
        mu_tilde = at(self.mu_x_0, t, x_t) * x_0 + at(self.mu_x_t, t, x_t) * x_t
        return mu_tilde, at(self.beta_tilde, t, x_t)

    def log_variance(
        self, variance: str, t: Tensor | int, x_t: Tensor, v: Tensor | None = None
    ) -> Tensor:
        """log sigma_t^2 of p(x_{t-1} | x_t), [B, ...] or broadcasting over it.

        variance: `fixed_small` is beta_tilde_t and `fixed_large` beta_t (Ho et al., section 3.2);
        `learned_range` lies between them, v [B, ...] from -1 to 1 (Nichol & Dhariwal 2021, Eq. 15,
        whose v is (v + 1) / 2 here, as in their code).
        """
        if variance == "learned_range":
            assert v is not None
            upper, lower = at(self.beta.log(), t, x_t), at(self.log_beta_tilde, t, x_t)
            return (v + 1) / 2 * upper + (1 - v) / 2 * lower
        if variance == "fixed_large":
            # At t = 0 it is beta_tilde_1: that is the better decoder (Ho's code).
            return at(torch.cat([self.log_beta_tilde[:1], self.beta[1:].log()]), t, x_t)
        if variance == "fixed_small":
            return at(self.log_beta_tilde, t, x_t)
        raise ValueError(f"variance must be one of {', '.join(VARIANCES)}, got {variance!r}")

    def x_0_from_eps(self, x_t: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """The x_0 that x_t came from if its noise was eps (Eq. 4 solved for x_0). [B, ...]"""
        return (
            at(self.alpha_bar.rsqrt(), t, x_t) * x_t
            - at((1 / self.alpha_bar - 1).sqrt(), t, x_t) * eps
        )

    def v(self, x_0: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022, section 4)."""
        return (
            at(self.alpha_bar.sqrt(), t, x_0) * eps - at((1 - self.alpha_bar).sqrt(), t, x_0) * x_0
        )

    def x_0_from_v(self, x_t: Tensor, t: Tensor | int, v: Tensor) -> Tensor:
        """The x_0 that x_t came from if its v was v. [B, ...]"""
        return at(self.alpha_bar.sqrt(), t, x_t) * x_t - at((1 - self.alpha_bar).sqrt(), t, x_t) * v

    def eps_from_x_0(self, x_t: Tensor, t: Tensor | int, x_0: Tensor) -> Tensor:
        """The noise in x_t if it came from x_0 (Eq. 4 solved for eps). [B, ...]"""
        return (at(self.alpha_bar.rsqrt(), t, x_t) * x_t - x_0) / at(
            (1 / self.alpha_bar - 1).sqrt(), t, x_t
        )


def at(table: Tensor, t: Tensor | int, x: Tensor) -> Tensor:
    """table[t] in x's dtype and device, shaped to broadcast over x: [B, 1, ..., 1] or a scalar."""
    # The dtype first: an MPS device has no float64.
    values = table[t].to(x.dtype) if isinstance(t, int) else table.to(x.dtype).to(x.device)[t]
    return values.to(x.device).reshape(-1, *[1] * (x.dim() - 1))


SPACINGS = ("trailing", "leading", "quadratic")
VARIANCES = ("fixed_large", "fixed_small", "learned_range")
