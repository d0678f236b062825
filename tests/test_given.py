"""diffusion-lm: lines with blanks, and what the network sees of the words that are given."""

import pytest
import torch

from gentool.backends.diffusion_lm.algorithm import denoiser
from gentool.backends.diffusion_lm.infill import parse
from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import ancestral, ddim, dpm_solver_pp
from gentool.diffusion.schedules import sqrt_betas
from gentool.errors import BadDataError
from gentool.rng import BatchRng, generator
from gentool.tokenizers import train as train_tokenizer

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


@pytest.fixture
def tokenizer():
    return train_tokenizer(
        "words", ("a small red circle", "two large blue squares , here", "the green cross")
    )


def test_lines_with_blanks(tokenizer):
    a, red = tokenizer.encode("a red")
    job = parse("a ___ red ___:2", tokenizer, 9)
    assert job.ids == [2, a, 0, red, 0, 0, 3, 0, 0]
    assert job.known == [True, True, False, True, False, False, True, True, True]
    assert job.filled([2, a, red, red, a, a, 3, 0, 0], tokenizer) == "a red red a a"
    assert parse("a _____ red ____:2", tokenizer, 9) == job
    odd = parse("  <pad>\t(___) [MASK] red_", tokenizer, 24)
    filled = odd.filled([red] * 24, tokenizer)
    assert filled == "  <pad>\t(red) [MASK] red_", "what is given comes back as it was"
    assert not {0, 2, 3, 4} & {id for id, known in zip(odd.ids[1:9], odd.known[1:9], strict=True)
                               if known}, "no text is a special token"  # fmt: skip


def test_lines_that_do_not_fit(tokenizer):
    assert parse("a " * 50, tokenizer, 9).blanks == (), "nothing is drawn for it"
    assert len(parse("a ___:6", tokenizer, 9).ids) == 9
    for line in ("a ___:7", "a ___:0", "___:" + "9" * 5000, "a " * 8 + "___"):
        with pytest.raises(BadDataError):
            parse(line, tokenizer, 9)
