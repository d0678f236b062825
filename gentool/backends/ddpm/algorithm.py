"""Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel 2020), the two algorithms.

`model_fn(x_t, t)` is the network: x_t [B, C, H, W] at noise level t [B], the index on the full
chain, 0 the least noisy. In the paper it returns eps_hat, the noise in x_t; named options let it
return x_0_hat or v_hat instead, and beside it, as C more channels, the variance of the reverse
step (Nichol & Dhariwal 2021). Images are in [-1, 1].
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gentool.diffusion.bound import step_term
from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import Denoise, Denoised

ModelFn = Callable[[Tensor, Tensor], Tensor]

LAMBDA = 0.001  # weight of L_vlb in L_hybrid


def training_loss(
    model_fn: ModelFn,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    chain: Gaussian,
    *,
    prediction: str = "eps",
    loss: str = "eps",
    snr_limit: float = 0.0,
    objective: str = "simple",
    variance: str = "fixed_large",
) -> dict[str, Tensor]:
    """Algorithm 1, lines 2-5: the terms of the loss by name, L_simple (Eq. 14), [B] each.

    x_0 [B, C, H, W]; t [B] uniform in 0..T-1; eps [B, C, H, W] standard normal. prediction: what
    the network returns (`eps`, `x_0` or `v`); loss and snr_limit: see `loss_weight`.

    objective: `simple`; `vlb`, the variational bound in bits per dimension, of which this is one
    of T terms, times T; `hybrid`, their sum, the bound weighted by LAMBDA and training nothing but
    the learned variance (Nichol & Dhariwal 2021, Eq. 16). variance: that of the bound.
    """
    x_t = chain.q_sample(x_0, t, eps)
    out, v = split(model_fn(x_t, t), x_0.shape[1])

    def bound(out: Tensor) -> Tensor:
        x_0_hat = to_x_0(out, x_t, t, chain, prediction)
        return chain.T * step_term(chain, x_0, x_t, t, x_0_hat, variance, v)

    if objective == "vlb":
        return {"vlb": bound(out)}
    targets = {"eps": lambda: eps, "x_0": lambda: x_0, "v": lambda: chain.v(x_0, t, eps)}
    target = targets[prediction]()
    error = (target - out).square().mean(dim=(1, 2, 3))
    weight = loss_weight(chain, prediction, loss, snr_limit)
    simple = error * weight.to(error.device, error.dtype)[t]
    if objective == "simple":
        return {"simple": simple}
    if objective == "hybrid":
        return {"simple": simple, "vlb": LAMBDA * bound(out.detach())}
    raise ValueError(f"objective must be simple, vlb or hybrid, got {objective!r}")


def loss_weight(chain: Gaussian, prediction: str, loss: str, snr_limit: float) -> Tensor:
    """The factor on the squared error of `prediction` at each noise level, [T] float64.

    The same error is |x_0 - x_0_hat|^2, snr times that in eps and snr + 1 times that in v, so the
    network may return one of them and be trained on the error in another, `loss`. snr_limit > 0
    caps the weight on the error in x_0 (Hang et al. 2023, Min-SNR-gamma: there loss is `eps`).
    """
    weights = {"x_0": torch.ones_like(chain.snr), "eps": chain.snr, "v": chain.snr + 1}
    wanted = weights[loss].clamp(max=snr_limit) if snr_limit else weights[loss]
    return wanted / weights[prediction]


def denoiser(model_fn: ModelFn, chain: Gaussian, prediction: str = "eps") -> Denoise:
    """What the samplers ask for: x_0_hat from the network's output, clipped to images' range.

    `chain` may be respaced: step i of it is `chain.timesteps[i]` to the network.
    """

    def denoise(x_t: Tensor, i: int) -> Denoised:
        t = torch.full((len(x_t),), int(chain.timesteps[i]), device=x_t.device)
        out, v = split(model_fn(x_t, t).float(), x_t.shape[1])  # of bf16 samplers take differences
        return Denoised(to_x_0(out, x_t, i, chain, prediction).clamp(-1, 1), v)

    return denoise


def to_x_0(out: Tensor, x_t: Tensor, t: Tensor | int, chain: Gaussian, prediction: str) -> Tensor:
    """x_0_hat [B, C, H, W], not clipped, from the network's output `out` at x_t."""
    if prediction == "x_0":
        return out
    solve = {"eps": chain.x_0_from_eps, "v": chain.x_0_from_v}[prediction]
    return solve(x_t, t, out)


def split(out: Tensor, C: int) -> tuple[Tensor, Tensor | None]:
    """The network's output [B, C or 2C, H, W] as the prediction and, where it is there, v."""
    return (out, None) if out.shape[1] == C else (out[:, :C], out[:, C:])


def guided(
    model_fn: Callable[..., Tensor],
    y: Sequence[Tensor],
    null: Sequence[Tensor],
    scale: float,
    interval: tuple[float, float] = (0.0, math.inf),
) -> ModelFn:
    """Classifier-free guidance (Ho & Salimans 2021): out_u + scale (out_c - out_u).

    y and null: the condition and the empty one, the tensors [B, ...] that `model_fn` takes after t.
    scale 1 is no guidance and 0 is without the condition; either takes one call of the network, any
    other scale two in one batch. A learned variance is the condition's, but at scale 0.
    interval: the steps t, ends included, that are guided (Kynkäänniemi et al. 2024); the others
    see y.
    """
    if scale == 1.0:
        return lambda x_t, t: model_fn(x_t, t, *y)
    doubled = [torch.cat([a, b]) for a, b in zip(y, null, strict=True)]

    def both(x_t: Tensor, t: Tensor) -> Tensor:
        if not interval[0] <= int(t[0]) <= interval[1]:
            return model_fn(x_t, t, *y)
        if scale == 0.0:
            return model_fn(x_t, t, *null)
        # In fp32: bf16 would round the difference once more.
        out = model_fn(torch.cat([x_t, x_t]), torch.cat([t, t]), *doubled).float()
        out_c, out_u = out.chunk(2)
        C = x_t.shape[1]
        mean = out_u[:, :C] + scale * (out_c[:, :C] - out_u[:, :C])
        return torch.cat([mean, out_c[:, C:]], dim=1)

    return both
