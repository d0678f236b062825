"""diffusion-lm: the algorithm on embeddings that are known, and the backend on a tiny network."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gentool.backends.diffusion_lm import (
    Config,
    DecodeConfig,
    ModelConfig,
    SampleConfig,
    classifier,
)
from gentool.backends.diffusion_lm.algorithm import (
    denoiser,
    nearest,
    rounding_logits,
    rounding_nll,
    sigma_0,
    training_loss,
)
from gentool.backends.diffusion_lm.backend import Backend
from gentool.backends.diffusion_lm.network import DiffusionTransformer
from gentool.checkpoint.load import load_checkpoint
from gentool.data.config import TextData
from gentool.diffusion.gaussian import SPACINGS, Gaussian
from gentool.diffusion.samplers import ancestral, ddim, dpm_solver_pp
from gentool.diffusion.schedules import sqrt_betas
from gentool.errors import UsageError
from gentool.resources import shipped
from gentool.rng import BatchRng, generator, torch_seed
from gentool.tokenizers import train as train_tokenizer

V, L, D, T = 11, 7, 16, 40
TERMS = ("reconstruction", "step_0", "prior", "rounding")
SAMPLERS = ("ancestral", "ddim", "dpm++")
TEXTS = ("a small red circle", "two large blue squares , here", "the green cross")


@pytest.fixture
def chain():
    return Gaussian(sqrt_betas(T))


@pytest.fixture
def emb():
    return 2 * torch.randn(V, D, generator=generator("E"))


@pytest.fixture
def ids():
    return torch.randint(V, (64, L), generator=generator("ids"))


@pytest.fixture
def noise():
    """z and eps."""
    return torch.randn(2, 64, L, D, generator=generator("noise"))


@pytest.fixture
def tokenizer():
    return train_tokenizer("words", TEXTS)


@pytest.fixture
def backend(tokenizer):
    """Over a chain of 40 steps, rows of 12."""
    config = Config(
        data=TextData(length=12),
        model=ModelConfig(embedding=4, hidden=8, layers=1, heads=2, time_features=8),
    )
    config.diffusion.T = T
    return Backend(config, tokenizer)


@pytest.fixture
def network(backend):
    with torch_seed("init"):
        return backend.network()


# --- the loss


def test_the_true_embeddings_miss_x_0_by_its_noise_and_step_0_by_nothing(chain, emb, ids, noise):
    t = torch.arange(64) % T
    loss = training_loss(lambda x_t, t: emb[ids], emb, torch.zeros(V), ids, t, *noise, chain)
    assert tuple(loss) == TERMS and all(term.shape == (64,) for term in loss.values())
    later = loss["reconstruction"][t > 0]
    assert later.mean().item() == pytest.approx(1 - chain.alpha_bar[0].item(), rel=0.05)
    assert (loss["reconstruction"][t == 0] == 0).all() and (loss["step_0"] == 0).all()


def test_the_least_noisy_step_is_asked_for_the_embedding_the_others_for_what_was_noised(
    chain, emb, ids, noise
):
    t = torch.tensor([0, 1] * 32)
    sigma_0 = (1 - chain.alpha_bar[0]).sqrt().float()
    x_0 = emb[ids] + sigma_0 * noise[0]
    loss = training_loss(lambda x_t, t: x_0, emb, torch.zeros(V), ids, t, *noise, chain)
    assert loss["reconstruction"].abs().max() < 1e-9
    expected = (sigma_0 * noise[0]).square().mean(dim=(1, 2))
    assert torch.allclose(loss["step_0"][t == 0], expected[t == 0], rtol=1e-4)
    assert (loss["step_0"][t == 1] == 0).all()


def test_the_network_sees_x_t_and_the_small_terms_are_what_the_paper_says(chain, emb, ids, noise):
    t = torch.arange(64) % T
    bias = torch.randn(V, generator=generator("bias"))
    seen = {}

    def model_fn(x_t, level):
        seen["x_t"], seen["t"] = x_t, level
        return torch.zeros_like(x_t)

    loss = training_loss(model_fn, emb, bias, ids, t, *noise, chain)
    x_0 = emb[ids] + float((1 - chain.alpha_bar[0]).sqrt()) * noise[0]
    assert torch.equal(seen["t"], t)
    a = chain.alpha_bar[t].float()[:, None, None]
    assert torch.allclose(seen["x_t"], a.sqrt() * x_0 + (1 - a).sqrt() * noise[1], atol=1e-5)
    last = float(chain.alpha_bar[-1].sqrt())
    assert torch.allclose(loss["prior"], (last * x_0).square().mean(dim=(1, 2)), rtol=1e-4)
    log_p = (x_0 @ emb.T + bias).log_softmax(dim=-1)
    nll = -log_p.gather(2, ids[:, :, None])[:, :, 0].mean(dim=1)
    assert torch.allclose(loss["rounding"], nll, atol=1e-4)


@pytest.mark.parametrize("term", TERMS)
def test_every_term_trains_the_embeddings(chain, emb, ids, noise, term):
    emb.requires_grad_()
    t = torch.arange(64) % 2
    loss = training_loss(lambda x_t, t: 0 * x_t, emb, torch.zeros(V), ids, t, *noise, chain)
    (gradient,) = torch.autograd.grad(loss[term].sum(), emb)
    assert (gradient.norm(dim=1) > 0).all()


def test_reconstruction_trains_the_embeddings_through_the_networks_input_too(
    chain, emb, ids, noise
):
    emb.requires_grad_()
    loss = training_loss(
        lambda x_t, t: x_t, emb, torch.zeros(V), ids, torch.full((64,), 5), *noise, chain
    )
    (gradient,) = torch.autograd.grad(loss["reconstruction"].sum(), emb)
    # d/dE |x_0 - (a x_0 + b eps)|^2 = 2 (1 - a) ((1 - a) x_0 - b eps), summed over where a word is
    a, b = float(chain.alpha_bar[5].sqrt()), float((1 - chain.alpha_bar[5]).sqrt())
    x_0 = (emb[ids] + float((1 - chain.alpha_bar[0]).sqrt()) * noise[0]).detach()
    each = 2 * (1 - a) * ((1 - a) * x_0 - b * noise[1]) / (L * D)
    expected = torch.zeros(V, D).index_add(0, ids.flatten(), each.flatten(0, 1))
    assert torch.allclose(gradient, expected, atol=1e-4)


def _distance_after(chain, terms):
    """Of two words whose embeddings begin as one, after training on `terms`."""
    emb = torch.ones(2, 4, requires_grad=True)
    ids = torch.tensor([[0, 1]] * 16)
    t = torch.full((16,), 3)
    optimizer = torch.optim.SGD([emb], lr=0.5)
    for step in range(30):
        z, eps = torch.randn(2, 16, 2, 4, generator=generator("step", step))
        loss = training_loss(lambda x_t, t: x_t, emb, torch.zeros(2), ids, t, z, eps, chain)
        optimizer.zero_grad()
        sum(loss[term].mean() for term in terms).backward()
        optimizer.step()
    return (emb[0] - emb[1]).norm().item()


def test_rounding_pushes_equal_embeddings_apart_and_nothing_else_does(chain):
    others = [term for term in TERMS if term != "rounding"]
    assert _distance_after(chain, TERMS) > 2
    assert _distance_after(chain, others) < 0.5


# --- rounding


def test_nearest_is_nearest_in_l2(emb):
    x = 2 * torch.randn(5, 9, D, generator=generator("x"))
    emb = emb * torch.linspace(0.2, 3, V)[:, None]  # so that the dot product errs
    brute = (x[:, :, None] - emb).square().sum(dim=-1).argmin(dim=-1)
    assert torch.equal(nearest(x, emb), brute)
    assert not torch.equal((x @ emb.T).argmax(dim=-1), brute)
    assert torch.equal(nearest(emb, emb), torch.arange(V))


def test_rounding_is_the_tied_layer_with_its_bias_in_fp32_whatever_the_network_computes_in(emb):
    x, bias = emb[None] + 0.1, torch.arange(V) / 10
    expected = x @ emb.T + bias
    with torch.autocast("cpu", torch.bfloat16):
        found = rounding_logits(x, emb, bias)
        assert torch.equal(nearest(emb.bfloat16(), emb), torch.arange(V))
    assert found.dtype == torch.float32 and torch.allclose(found, expected, atol=1e-4)
    ids = torch.arange(V)[None]
    each = F.cross_entropy(expected[0], ids[0], reduction="none")
    assert torch.allclose(rounding_nll(x, ids, emb, bias)[0], each, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("clamp", [0.0, 1.0])
def test_what_is_denoised_to_the_true_embeddings_is_decoded_to_the_words(
    chain, emb, ids, sampler, clamp
):
    def model_fn(x_t, t):
        return emb[ids] + 0.3 * torch.randn(x_t.shape, generator=generator("error"))

    short = chain.respaced(8)
    denoise = denoiser(model_fn, emb, short, clamp=clamp)
    rng = BatchRng.for_samples(0, range(64))
    x = rng.normal(L, D)
    if sampler == "ancestral":
        x = ancestral(denoise, x, short, rng, variance="fixed_small")
    elif sampler == "ddim":
        x = ddim(denoise, x, short, rng)
    else:
        x = dpm_solver_pp(denoise, x, short, rng)
    assert torch.equal(nearest(x, emb), ids)
    assert torch.allclose(x, emb[ids], atol=1e-5) == (clamp == 1.0)


@pytest.mark.parametrize("clamp, steps", [(0.0, 0), (0.3, 3), (0.5, 5), (1.0, 10)])
def test_the_clamp_acts_in_the_last_share_of_the_steps(chain, emb, clamp, steps):
    short = chain.respaced(10)
    x_0_hat = torch.zeros(2, L, D) + 0.01
    denoise = denoiser(lambda x_t, t: x_0_hat, emb, short, clamp=clamp)
    x_t = torch.zeros(2, L, D)
    clamped = [i for i in range(10) if not torch.equal(denoise(x_t, i).x_0, x_0_hat)]
    assert clamped == list(range(steps)), "0 is the least noisy step"


def test_the_network_sees_the_clean_embeddings_of_what_is_known_at_the_original_level(
    chain, emb, ids
):
    known = torch.rand(64, L, generator=generator("known")) < 0.5
    seen = {}

    def model_fn(x_t, t):
        seen["x_t"], seen["t"] = x_t, t
        return torch.zeros_like(x_t)

    short = chain.respaced(10)
    x_t = torch.randn(64, L, D, generator=generator("x_t"))
    x_0_hat = denoiser(model_fn, emb, short, known=known, ids=ids)(x_t, 6).x_0
    assert torch.equal(seen["x_t"][known], emb[ids][known])
    assert torch.equal(seen["x_t"][~known], x_t[~known])
    assert (seen["t"] == short.timesteps[6]).all() and int(short.timesteps[6]) == 27
    assert torch.equal(x_0_hat[known], emb[ids][known])
    assert torch.equal(
        x_0_hat[~known], emb[nearest(torch.zeros(D), emb)].expand_as(x_0_hat[~known])
    )


# --- the network


def test_the_network_has_the_papers_shape_and_is_told_the_level_and_the_place():
    with torch.device("meta"):
        count = sum(p.numel() for p in DiffusionTransformer(ModelConfig(), 821, 64).parameters())
    assert count == pytest.approx(87e6, rel=0.03), "BERT's encoder is 85.1M of them"
    with torch_seed("init"):
        small = DiffusionTransformer(ModelConfig(8, 16, 2, 4, 0.0, 8), V, L).eval()
    x = torch.randn(3, L, 8, generator=generator("x"))
    t = torch.tensor([0.0, 10.0, 1000.0])
    out = small(x, t)
    assert out.shape == x.shape
    assert torch.allclose(small(x[1:2], t[1:2]), out[1:2], atol=1e-6), "alone as in a batch"
    assert not torch.allclose(small(x, t + 50), out, atol=1e-4)
    assert not torch.allclose(small(x.flip(1), t).flip(1), out, atol=1e-4)


def test_the_network_is_told_the_level_on_a_scale_of_1000(backend):
    told = []

    def network(x_t, t):
        told.append(t)
        return x_t

    backend._model_fn(network)(torch.zeros(3, 12, 4), torch.tensor([0, 20, 39]))
    assert told[0].tolist() == [0, 500, 975]


@pytest.mark.parametrize("wrong", [{"hidden": 10, "heads": 4}, {"time_features": 7}])
def test_a_network_that_cannot_be_is_a_usage_error(wrong):
    with pytest.raises(UsageError):
        ModelConfig(**wrong)
    with pytest.raises(UsageError):
        classifier.ModelConfig(**wrong)


# --- the backend


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_samplers_give_finite_numbers_in_any_number_of_steps(
    backend, network, sampler, steps, spacing
):
    settings = SampleConfig(steps=steps, sampler=sampler, spacing=spacing, eta=0.5)
    calls = []
    ids, margins = backend.draw(
        network, BatchRng.for_samples(0, range(3)), settings, lambda look: calls.extend(look([0]))
    )
    assert ids.shape == margins.shape == (3, 12) and len(calls) == steps
    assert margins.isfinite().all() and (margins >= 0).all()
    assert all(np.isfinite(view.tokens["x_t"].confidence).all() for view in calls)


def test_what_is_given_stays_and_blanks_become_words(backend, network, tokenizer):
    network.bias.data[:5] = 100  # special tokens would win
    job = backend.blanks("a ___:3 red nonesuch ___")
    assert job.ids[6] == tokenizer.special("unk")
    ids, margins = backend.draw(
        network, BatchRng.for_samples(0, range(4)), DecodeConfig(steps=5),
        ids=torch.tensor([job.ids] * 4), known=torch.tensor([job.known] * 4),
    )  # fmt: skip
    known = torch.tensor(job.known)
    assert (ids[:, known] == torch.tensor(job.ids)[known]).all()
    assert (ids[:, ~known] >= 5).all() and int((~known).sum()) == 4
    assert margins[:, known].isinf().all() and margins[:, ~known].isfinite().all()
    free, _ = backend.draw(network, BatchRng.for_samples(0, range(4)), DecodeConfig(steps=5))
    assert (free < 5).all()


def test_the_length_has_a_limit(backend, network):
    with pytest.raises(UsageError, match="10 tokens"):
        backend.draw(network, BatchRng.for_samples(0, [0]), SampleConfig(steps=5, length=11))
    ids, _ = backend.draw(network, BatchRng.for_samples(0, [0]), SampleConfig(steps=5, length=10))
    assert ids[0, 0] == 2 and ids[0, 11] == 3 and (ids[0, 1:11] >= 5).all()


def test_a_line_ends_at_the_end_of_the_sentence(backend, tokenizer):
    pad, unk, bos, eos, mask = (tokenizer.special(name) for name in ("pad", "unk", "bos", "eos",
                                                                    "mask"))  # fmt: skip
    a, red = tokenizer.encode("a red")
    margin = torch.full((7,), 5.0)
    margin[0] = margin[2] = margin[4] = 0.01
    line = backend.line(torch.tensor([bos, a, red, eos, a, pad, pad]), margin)
    assert (line.text, line.tokens, line.ties) == ("a red", 2, 1)
    line = backend.line(torch.tensor([a, mask, unk, pad, bos, red, a]), margin)
    assert (line.text, line.tokens) == ("a red a", 7)
    assert backend.line(torch.tensor([eos] * 7), margin).text == ""


def test_embeddings_that_collapse_are_told(backend, network):
    figures, warning = backend.watch(network)
    emb = network.embedding.weight.data
    assert warning == "" and set(figures) == {"embedding_norm", "embedding_distance"}
    assert figures["embedding_norm"] == pytest.approx(emb.norm(dim=1).mean().item())
    assert figures["embedding_distance"] == pytest.approx(torch.pdist(emb).min().item(), rel=1e-3)
    emb[7] = emb[3] + 0.001
    figures, warning = backend.watch(network)
    assert figures["embedding_distance"] == pytest.approx(0.002, rel=0.2)
    assert "collapse" in warning and "\n" not in warning


def test_pairs_are_refused(tokenizer):
    for data in (
        TextData(language="en-zh"),
        TextData(spec=("a.en,b.de",)),
        TextData(spec=("a.csv",), text_column="zh", source_column="en"),
    ):
        with pytest.raises(UsageError, match="pairs"):
            Backend(Config(data=data), tokenizer)


def test_a_noisy_embedding_is_still_nearest_to_its_own_word():
    """Of the shipped checkpoint: x_0, with the noise of the chain's first step, is read off."""
    loaded = load_checkpoint(shipped("checkpoints")["diffusion-lm-scenes"], "diffusion-lm")
    emb = loaded.network.get_parameter("embedding.weight").detach()
    ids = torch.arange(len(emb)).repeat(50)
    noise = torch.randn(len(ids), emb.shape[1], generator=torch.Generator().manual_seed(0))
    x_0 = emb[ids] + sigma_0(loaded.backend.chain) * noise
    assert (nearest(x_0, emb) == ids).double().mean() > 0.99
