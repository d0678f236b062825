"""The bound on -log p(w) of Diffusion-LM (Li et al. 2022), term by term, in bits of a row.

Eq. 2: L_vlb^e2e(w) = E_q(x_0..x_T | w) [ L_vlb(x_0) + log q(x_0 | w) - log p(w | x_0) ].
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gentool.backends.diffusion_lm.algorithm import rounding_nll
from gentool.diffusion.bound import kl_term, prior_term
from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import Denoise, Noise


@torch.no_grad()
def bound(
    denoise: Denoise,
    emb: Tensor,
    bias: Tensor,
    ids: Tensor,
    chain: Gaussian,
    alpha_bar_0: Tensor,
    rng: Noise,
) -> Iterator[tuple[str, Tensor]]:
    """(part, bits of each row [B]): `prior` L_T, `kl` L_{t-1} of every step but the last, from the
    noisiest on, then `embedding` and `rounding`. Padding is part of a row.

    emb [V, d] and bias [V]; ids [B, L]; alpha_bar_0: of the chain that emb was trained with.
    """
    m = F.embedding(ids, emb)  # [B, L, d]
    size = m[0].numel()
    variance_0 = float(1 - alpha_bar_0)
    x_0 = m + math.sqrt(variance_0) * rng.normal(*m.shape[1:]).to(m)
    yield "prior", size * prior_term(chain, x_0)
    for i in reversed(range(chain.T)):
        t = torch.full((len(ids),), i, device=ids.device)
        x_t = chain.q_sample(x_0, t, rng.normal(*m.shape[1:]).to(m))
        x_0_hat = denoise(x_t, i).x_0
        if i > 0:
            yield "kl", size * kl_term(chain, x_0, x_t, t, x_0_hat, "fixed_small")
    yield "embedding", embedding_term(m, x_0_hat, variance_0, float(chain.snr[0]))
    yield "rounding", rounding_nll(x_0, ids, emb, bias).sum(dim=1) / math.log(2)


def embedding_term(m: Tensor, m_hat: Tensor, variance_0: float, snr: float) -> Tensor:
    """E [ log q(x_0 | w) - log p(x_0 | x_1) ] over q(x_0 | x_1, w), in bits of each row, [B].

    The network's answer at the least noisy step is taken for the embedding, as it is trained:
    p(x_0 | x_1) is q(x_0 | x_1, w) with m_hat in place of m = Emb(w), both [B, L, d]. (The paper
    leaves this one open.) snr: of x_1. Negative where x_1 tells much of x_0.
    """
    precision = 1 / variance_0 + snr  # of q(x_0 | x_1, w), in every dimension
    gap = (m - m_hat).square() / (2 * variance_0**2 * precision)
    known = math.log(variance_0 * precision) / 2
    return (gap - known).flatten(1).sum(dim=1) / math.log(2)
