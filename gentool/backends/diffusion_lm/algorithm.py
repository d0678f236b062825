"""Diffusion-LM (Li et al. 2022): text by diffusion over word embeddings, learned with it.

A sentence of L tokens, ids [B, L], becomes x_0 [B, L, d] by a table emb [V, d] and noise, is
diffused by a Gaussian chain, and is read off again by rounding. `model_fn(x_t, t)` returns x_0_hat
from x_t, [B, L, d] both, at noise level t [B], the index on the full chain, 0 the least noisy.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import Denoise, Denoised

ModelFn = Callable[[Tensor, Tensor], Tensor]


def training_loss(
    model_fn: ModelFn,
    emb: Tensor,
    bias: Tensor,
    ids: Tensor,
    t: Tensor,
    z: Tensor,
    eps: Tensor,
    chain: Gaussian,
) -> dict[str, Tensor]:
    """The terms of L_simple^e2e (Eq. 2), [B] each, as the authors' code weighs them: their sum is
    minimised. The paper's w is `ids` here.

    emb [V, d] and bias [V]: the embeddings and the rounding's bias; ids [B, L]; t [B] uniform in
    0..T-1; z and eps [B, L, d] standard normal.
    """
    m = F.embedding(ids, emb)  # Emb(w): [B, L, d]
    x_0 = m + sigma_0(chain) * z  # q(x_0 | w), so that emb is trained through the sample
    x_0_hat = model_fn(chain.q_sample(x_0, t, eps), t)
    # The least noisy step is asked for the embedding itself, the others for what was noised.
    target = torch.where((t == 0)[:, None, None], m, x_0)
    error = (target - x_0_hat).square().mean(dim=(1, 2))
    return {
        "reconstruction": torch.where(t == 0, torch.zeros_like(error), error),
        "step_0": torch.where(t == 0, error, torch.zeros_like(error)),
        "prior": float(chain.alpha_bar[-1]) * x_0.square().mean(dim=(1, 2)),
        # The term that keeps the embeddings apart: without it they would all be one.
        "rounding": rounding_nll(x_0, ids, emb, bias).mean(dim=1),
    }


def sigma_0(chain: Gaussian) -> float:
    """The deviation of q(x_0 | w) = N(Emb(w), sigma_0^2): that of the chain's first step."""
    return float((1 - chain.alpha_bar[0]).sqrt())


def level(t: Tensor, chain: Gaussian) -> Tensor:
    """What networks are told of the noise level t: where it is on a chain of 1000 steps."""
    return t * (1000 / chain.T)


def rounding_logits(x_0: Tensor, emb: Tensor, bias: Tensor) -> Tensor:
    """log p(w | x_0) up to a constant, [..., V]: the tied softmax layer. x_0 [..., d].

    In fp32 whatever the network computes in: bf16 cannot tell neighbours apart.
    """
    with torch.autocast(x_0.device.type, enabled=False):
        return F.linear(x_0.float(), emb, bias)


def rounding_nll(x_0: Tensor, ids: Tensor, emb: Tensor, bias: Tensor) -> Tensor:
    """-log p(w_i | x_i) of every position, [B, L], in nats."""
    logits = rounding_logits(x_0, emb, bias)
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view_as(ids)


def nearest(x: Tensor, emb: Tensor) -> Tensor:
    """The ids of the embeddings nearest to x in L2, [...]; x [..., d], emb [V, d].

    |x - e|^2 is least where x·e - |e|^2 / 2 is greatest: one matrix product.
    """
    return rounding_logits(x, emb, -emb.square().sum(dim=1) / 2).argmax(dim=-1)


def word_posterior(x_t: Tensor, emb: Tensor, alpha_bar: float, sigma: float) -> Tensor:
    """q(w | x_t), [..., V]: which word x_t [..., d] came from, were each as likely before.

    x_t is Gaussian around sqrt(alpha_bar) Emb(w), with the noise of x_0, sigma, and that of the
    chain.
    """
    mean = alpha_bar**0.5 * emb
    variance = alpha_bar * sigma**2 + 1 - alpha_bar
    logits = rounding_logits(x_t, mean, -mean.square().sum(dim=1) / 2)
    return (logits / variance).softmax(dim=-1)


def denoiser(
    model_fn: ModelFn,
    emb: Tensor,
    chain: Gaussian,
    *,
    clamp: float = 1.0,
    known: Tensor | None = None,
    ids: Tensor | None = None,
    noised: bool = False,
) -> Denoise:
    """What the samplers ask for: x_0_hat, moved to the nearest word (the clamping trick, section
    4.2), and the words that are given kept in place (infilling).

    clamp: do so in this last share of the steps; 1 is always, as the authors do, 0 never.
    known [B, L] bool and ids [B, L]: positions whose token is given; the network sees their clean
    embeddings at every noise level (in the authors' code but for the first call). noised: it sees
    them as in training, q(x_t | Emb(w)), which is what a sampler makes of an x_0_hat that is always
    Emb(w).
    """
    given = None if ids is None else F.embedding(ids, emb)

    def denoise(x_t: Tensor, i: int) -> Denoised:
        if known is not None and given is not None and not noised:
            x_t = torch.where(known[:, :, None], given, x_t)
        t = torch.full((len(x_t),), int(chain.timesteps[i]), device=x_t.device)
        x_0_hat = model_fn(x_t, t).float()  # of bf16 samplers take differences
        if i < clamp * chain.T:
            x_0_hat = F.embedding(nearest(x_0_hat, emb), emb)
        if known is not None and given is not None:
            x_0_hat = torch.where(known[:, :, None], given, x_0_hat)
        return Denoised(x_0_hat)

    return denoise
