"""Figures of text models that have an answer known beforehand: the bound, self-BLEU, copies."""

import math
import sys

import pytest
import torch
from torch.distributions import Normal

from gentool.backends.diffusion_lm.bound import bound, embedding_term
from gentool.checkpoint.load import load_checkpoint
from gentool.data.scenes import SceneTexts
from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import Denoised
from gentool.diffusion.schedules import sqrt_betas
from gentool.evaluate.request import Request
from gentool.evaluate.texts import caption_figures, copies, self_bleu_figures
from gentool.rng import BatchRng, generator

PARTS = ("prior", "kl", "embedding", "rounding")
L, D, T = 5, 4, 60


@pytest.fixture
def chain():
    return Gaussian(sqrt_betas(T))


def bits(denoise, E, w, chain):
    """The mean bits of a row, part by part."""
    sums = dict.fromkeys(PARTS, 0.0)
    rng, bias = BatchRng.for_samples(0, range(len(w))), torch.zeros(len(E))
    for part, term in bound(denoise, E, bias, w, chain, chain.alpha_bar[0], rng):
        assert term.shape == (len(w),)
        sums[part] += term.mean().item()
    return sums


# --- the bound


def test_a_word_that_is_sure_costs_nearly_nothing_if_x_0_is_told_as_well_as_can_be(chain):
    """The bound of a text that has probability 1 is at least 0, and 0 for the best network."""
    E, w = 2 * torch.ones(1, D), torch.zeros(64, L, dtype=torch.long)
    m, variance_0 = E[w], float(1 - chain.alpha_bar[0])

    def best(x_t, i):  # E[x_0 | x_t, w], and Emb(w) at the least noisy step
        snr, a = float(chain.snr[i]), float(chain.alpha_bar[i].sqrt())
        posterior = (m / variance_0 + snr * x_t / a) / (1 / variance_0 + snr)
        return Denoised(m if i == 0 else posterior)

    ideal = bits(best, E, w, chain)
    assert 0 < sum(ideal.values()) / (L * D) < 0.06 and ideal["embedding"] < 0 < ideal["kl"]
    assert ideal["rounding"] == 0
    clean = sum(bits(lambda x_t, i: Denoised(m), E, w, chain).values())
    nothing = sum(bits(lambda x_t, i: Denoised(0 * m), E, w, chain).values())
    assert nothing > 50 * clean > 50 * sum(ideal.values())


def test_rounding_is_the_bits_of_the_softmax_layer(chain):
    E = torch.zeros(8, D)
    w = torch.randint(8, (4, L), generator=generator("w"))
    found = bits(lambda x_t, i: Denoised(torch.zeros(4, L, D)), E, w, chain)
    assert found["rounding"] == pytest.approx(L * 3, rel=1e-5), "eight words, all as likely"


def test_the_embeddings_term_is_the_mean_of_its_log_ratio():
    m, m_hat, variance_0, a, b = 1.3, 1.1, 0.04, 0.9, 0.3
    n = 400_000
    z, eps = torch.randn(2, n, generator=generator("z"))
    x_0 = m + math.sqrt(variance_0) * z
    x_1 = a * x_0 + b * eps
    precision = 1 / variance_0 + a**2 / b**2
    p = Normal((m_hat / variance_0 + a * x_1 / b**2) / precision, precision**-0.5)
    ratio = Normal(m, math.sqrt(variance_0)).log_prob(x_0) - p.log_prob(x_0)
    term = embedding_term(torch.tensor([[m]]), torch.tensor([[m_hat]]), variance_0, a**2 / b**2)
    assert term.item() == pytest.approx(ratio.mean().item() / math.log(2), abs=0.01)


def test_the_bound_of_a_checkpoint_is_the_sum_of_its_parts(cli, text_run):
    command = ("eval", "diffusion-lm", "-c", text_run, "-n", 6, "--metric", "bound", "--json")
    result = cli(*command, "--steps", 20, "-q")
    assert result.code == 0 and result.out == cli(*command, "--steps", 20).out
    values = {record["metric"]: record["value"] for record in result.records}
    assert list(values) == ["bound", *(f"bound[{part}]" for part in PARTS)]
    assert values["bound"] == pytest.approx(sum(values[f"bound[{part}]"] for part in PARTS))
    size = load_checkpoint(text_run, "diffusion-lm").tokenizer.size
    assert values["bound"] > math.log2(size), "hardly trained: worse than a guess"
    settings = result.records[0]["settings"]
    assert settings["clamp"] == 0 and settings["steps"] == 20
    source = SceneTexts("test", "en")
    assert settings["tokens"] == sum(len(source[i].text.split()) + 1 for i in range(6))
    assert cli(*command, "--steps", 5).records[0]["value"] != values["bound"]
    assert cli(*command, "--steps", 21).code == 2


# --- samples beside texts


def test_self_bleu_tells_the_same_from_the_different():
    words = [f"w{i}" for i in range(64)]
    different = [" ".join(words[i : i + 8]) for i in range(0, 64, 8)]
    same = ["a red circle is above a blue cross"] * 8
    assert self_bleu_figures(same)["self_bleu"] == pytest.approx(100)
    assert self_bleu_figures(different)["self_bleu"] < 10
    assert self_bleu_figures(same[:1])["self_bleu"] is None


def test_self_bleu_says_what_it_needs(cli, text_run, monkeypatch):
    command = ("eval", "diffusion-lm", "-c", text_run, "-n", 4, "-q", "--metric", "self-bleu")
    names = [line.split()[0] for line in cli(*command).out.splitlines()]
    assert names == ["self_bleu", "self_bleu[real]"]
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    result = cli(*command)
    assert result.code == 2 and "self-bleu needs sacrebleu" in result.err


def test_samples_that_are_training_texts_are_counted(cli, text_recipe, text_run, tmp_path):
    texts = tmp_path / "texts.txt"
    run = tmp_path / "run"
    texts.write_text("a  red circle .\nb\n" * 2 + "".join(f"word{i}\n" for i in range(40)))
    given = ("--recipe", text_recipe, "--data", texts, "--out", run, "--steps", 1, "-q")
    assert cli("train", "diffusion-lm", *given).code == 0
    loaded = load_checkpoint(run, "diffusion-lm")
    request = Request(loaded, loaded.config.sample, None, 4, 0, "cpu", 4, "fp32")
    trained, _ = loaded.backend.sources()
    kept = [trained[i].text for i in range(3)]
    written = [" ".join(text.split()).replace(" .", ".") for text in kept]  # as samples are
    request.texts = [*written[:2], "no such", "a red"]
    [figure] = copies(request)
    assert (figure.metric, figure.value) == ("copies", 0.5)
    command = ("eval", "diffusion-lm", "-n", 4, "-q")
    assert "copies" in cli(*command, "-c", run).out
    assert cli(*command, "-c", text_run, "--metric", "copies").code == 2, "scenes have no end"


def test_relations_count_among_the_shares_of_attributes():
    source = SceneTexts("train", "en")
    texts = [source[i].text for i in range(800)]
    figures = caption_figures(texts)
    for relation in ("left of", "above"):
        assert figures[f"scene_share[relation={relation}]"] == pytest.approx(1, abs=0.25)
    above = [text for text in texts if " left " not in text and " right " not in text]
    lopsided = caption_figures(above)
    assert lopsided["scene_share[relation=left of]"] == 0 == lopsided["scene_share_min"]
