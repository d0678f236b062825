"""diffusion-lm: what the network sees of words that are given."""

import pytest
import torch

from gentool.backends.diffusion_lm.algorithm import denoiser
from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import ancestral, ddim, dpm_solver_pp
from gentool.diffusion.schedules import sqrt_betas
from gentool.rng import BatchRng, generator

B, V, L, D, T = 2000, 5, 3, 4, 50
SAMPLERS = {
    "ancestral": lambda *args: ancestral(*args, variance="fixed_small"),
    "ddim": ddim,
    "dpm++": dpm_solver_pp,
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("noised", [False, True])
def test_given_words_are_seen_clean_or_as_in_training(sampler, noised):
    """q(x_t | w) at every step: the mean and the spread of the forward process."""
    emb = 2 * torch.randn(V, D, generator=generator("emb"))
    ids, known = torch.tensor([[1, 0, 4]]).expand(B, L), torch.tensor([[True, False, True]])
    chain = Gaussian(sqrt_betas(T))
    seen = []

    def model_fn(x_t, t):
        seen.append((int(t[0]), x_t[:, [0, 2]]))
        return torch.zeros_like(x_t)

    denoise = denoiser(model_fn, emb, chain, known=known.expand(B, L), ids=ids, noised=noised)
    rng = BatchRng.for_samples(0, range(B))
    x_0 = SAMPLERS[sampler](denoise, rng.normal(L, D), chain, rng)
    assert len(seen) == T
    for t, x_t in seen:
        share = chain.alpha_bar[t] if noised else torch.ones(())
        mean, spread = share.sqrt() * emb[[1, 4]], (1 - share).sqrt()
        torch.testing.assert_close(x_t.mean(dim=0), mean.float(), atol=0.12, rtol=0.02)
        torch.testing.assert_close(
            x_t.std(dim=0), spread.float().expand(2, D), atol=0.03, rtol=0.05
        )
    torch.testing.assert_close(x_0[:, [0, 2]], emb[[1, 4]].expand(B, 2, D), atol=0.01, rtol=0.01)
