"""The judge: a GPT-2 trained by the loop of all, and what it says of texts."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import log_of, trained, weights_of

from gentool.checkpoint.load import load_checkpoint
from gentool.data.scenes import SceneTexts
from gentool.rng import generator, torch_seed

RECIPE = """\
backend = "judge"
[data]
spec = "scenes"
length = 24
[tokenizer]
min_count = 1
[model]
hidden = 16
layers = 1
heads = 2
[train]
batch_size = 8
steps = 60
warmup_steps = 0
learning_rate = 0.01
ema_decay = 0.9
log_every = 10
save_every = 30
validate_every = 0
"""


@pytest.fixture(scope="module")
def judge_recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "judge.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def run(judge_recipe, tmp_path_factory):
    """A judge trained for 60 steps. Not to be changed."""
    return trained("judge", judge_recipe, tmp_path_factory.mktemp("runs") / "judge")


@pytest.fixture(scope="module")
def judge(run):
    """`judge(texts)`: nats and tokens of each, by the trained network."""
    loaded = load_checkpoint(run, "judge")
    return lambda texts: loaded.backend.judged(loaded.network, texts)


@pytest.fixture(scope="module")
def texts():
    source = SceneTexts("test", "en")
    return [source[i].text for i in range(40)]


def test_nats_and_tokens_are_those_of_the_softmax_one_token_at_a_time(run, judge):
    loaded = load_checkpoint(run, "judge")
    text = "a small red circle"
    ids = [2, *loaded.tokenizer.encode(text), 3]
    expected = 0.0
    for end in range(1, len(ids)):
        with torch.no_grad():
            logits = loaded.network(torch.tensor([ids[:end]]))[0, -1]
        expected -= logits.log_softmax(dim=0)[ids[end]].item()
    nll, n = judge([text])
    assert n.tolist() == [5] and nll.item() == pytest.approx(expected, rel=1e-4)


def test_a_text_is_judged_alone_as_beside_others(judge, texts):
    nll, n = judge([*texts, "", "a red"])
    for i in (0, 3, 40, 41):
        alone, length = judge([[*texts, "", "a red"][i]])
        assert alone.item() == pytest.approx(nll[i].item(), rel=1e-4) and length == n[i]
    assert n[40:].tolist() == [1, 3]


def test_the_end_of_a_text_too_long_is_not_judged(judge):
    nll, n = judge(["a red " * 30, "a red " * 11])
    assert n.tolist() == [23, 23] and nll[0] != nll[1]


def test_captions_are_likelier_than_their_words_in_another_order(judge, texts):
    shuffled = []
    for number, text in enumerate(texts):
        words = text.split()
        order = torch.randperm(len(words), generator=generator("shuffle", number)).tolist()
        shuffled.append(" ".join(words[i] for i in order))
    (real, n), (control, _) = judge(texts), judge(shuffled)
    assert control.sum() / n.sum() > 1.0 + real.sum() / n.sum()


def test_an_untrained_judge_finds_every_token_as_likely(run, texts):
    loaded = load_checkpoint(run, "judge")
    with torch_seed("fresh"):
        network = loaded.backend.network()
    nll, n = loaded.backend.judged(network, texts)
    assert (nll.sum() / n.sum()).item() == pytest.approx(math.log(loaded.tokenizer.size), rel=0.05)


def test_each_token_counts_the_same_in_training(run):
    loaded = load_checkpoint(run, "judge")
    rows = [[2, 5, 6, 7, 3] + [0] * 19, [2, 3] + [0] * 22]
    batch = {"ids": torch.tensor(rows)}
    logits = loaded.network(batch["ids"])
    each = torch.cat([
        F.cross_entropy(logits[i, : n - 1], batch["ids"][i, 1:n], reduction="none")
        for i, n in ((0, 5), (1, 2))
    ])  # fmt: skip
    loss = loaded.backend.loss(loaded.network, batch)["nll"]
    assert loss.shape == (2,) and loss.mean().item() == pytest.approx(each.mean().item(), rel=1e-5)


def test_a_judge_that_was_cut_ends_in_the_same_bytes(cli, run, judge_recipe, tmp_path):
    out = tmp_path / "cut"
    given = ("train", "judge", "--out", out)
    assert cli(*given, "--recipe", judge_recipe, "--stop-at", 7).code == 0
    assert cli(*given, "--resume", "latest", "--recipe", judge_recipe).code == 0
    assert weights_of(out) == weights_of(run) and log_of(out) == log_of(run)
    card = (run / "README.md").read_text()
    assert "gentool inspect" in card and "gentool sample" not in card
    assert cli("inspect", run).code == 0


def test_samples_are_judged_beside_held_out_texts(cli, run, text_run):
    command = ("eval", "diffusion-lm", "-c", text_run, "-n", 16, "--judge", run, "--json", "-q")
    result = cli(*command, "--metric", "judge")
    assert result.code == 0 and result.out == cli(*command, "--metric", "judge").out
    values = {record["metric"]: record["value"] for record in result.records}
    assert values["judge_nll"] > values["judge_nll[real]"] + 0.3, "hardly trained"
    assert values["judge_perplexity_ratio"] == pytest.approx(
        math.exp(values["judge_nll"] - values["judge_nll[real]"])
    )
    assert 0 <= values["judge_cut"] <= 1 and values["judge_cut[real]"] == 0
    for record in result.records:
        assert record["settings"]["judge_step"] == 60 and record["n"] == 16
    assert "judge_nll" in cli(*command).out, "measured wherever a judge is named"
    assert cli(*command, "--metric", "judge", "--gate", "judge_perplexity_ratio<=1").code == 7


def test_a_judge_that_is_none(cli, text_run, tiny_run, run, tmp_path):
    command = ("eval", "diffusion-lm", "-c", text_run, "-n", 2, "--metric", "judge", "-q")
    for judge, code, word in ((text_run, 4, "not judge"), (tmp_path / "no", 3, "no checkpoint")):
        result = cli(*command, "--judge", judge)
        assert result.code == code and word in result.err and result.out == ""
    assert cli("eval", "ddpm", "-c", tiny_run, "--judge", run).code == 2
    result = cli("eval", "diffusion-lm", "-c", text_run, "--metric", "loss", "--judge", run)
    assert result.code == 2 and "--judge" in result.err and "--metric judge" in result.err
    assert cli("sample", "judge", "-c", run).code == 2


def test_pairs_and_impossible_networks_are_refused(cli, judge_recipe, tmp_path):
    for setting in ("data.language=en-zh", "model.heads=3"):
        result = cli("train", "judge", "--recipe", judge_recipe, "--out", tmp_path / "x",
                     "--set", setting, "-q")  # fmt: skip
        assert result.code == 2 and "bug" not in result.err


def test_bench_asks_a_judge_that_is_named(cli, text_run, run):
    command = ("bench", "diffusion-lm", "-c", text_run, "--steps", "2", "-n", 4, "-q", "--json")
    [record] = cli(*command, "--judge", run).records
    assert record["metric"] == "judge_nll" and record["quality"] > 0
    [record] = cli(*command).records
    assert record["metric"] == "scene_captions" and record["quality"] == 0
