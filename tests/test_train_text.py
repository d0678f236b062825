"""`gentool train` and `eval` of diffusion-lm: the terms of the loss, the tokenizer of a run, and
figures whose controls are at chance."""

import json
import shutil

import pytest
import torch
from conftest import log_of, states_of, weights_of
from safetensors import safe_open

from gentool.backends.diffusion_lm.backend import Backend
from gentool.data.scenes import SceneTexts
from gentool.evaluate.texts import caption_figures, diversity_figures
from gentool.rng import generator
from gentool.tokenizers import load

TERMS = ("reconstruction", "step_0", "prior", "rounding")


@pytest.fixture
def train(cli, text_recipe, tmp_path):
    """`train("--steps", 5)` trains the tiny text recipe into tmp_path / "run"."""

    def call(*arguments, out=None):
        out = out or tmp_path / "run"
        return cli("train", "diffusion-lm", "--recipe", text_recipe, "--out", out, *arguments)

    return call


@pytest.fixture
def copy(text_run, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(text_run, tmp_path / "run")


def header_of(run):
    with safe_open(run / "model.safetensors", framework="numpy") as file:
        return file.metadata()


# --- a run


def test_each_term_is_logged_and_their_sum_is_the_loss(text_run):
    records = [record for record in log_of(text_run) if "loss" in record]
    assert [record["step"] for record in records] == [1, *range(5, 41, 5)]
    for record in records:
        assert record["loss"] == pytest.approx(sum(record[term] for term in TERMS), rel=1e-5)
        assert record["embedding_norm"] > record["embedding_distance"] > 0
    assert any(record["step_0"] > 0 for record in records)
    assert records[-1]["loss"] < records[0]["loss"]


def test_a_cut_run_ends_in_the_same_bytes(train, text_run, tmp_path):
    run = tmp_path / "run"
    for cut in (1, 13, 20, 40):
        given = () if cut == 1 else ("--resume", "latest")
        assert train("--stop-at", cut, *given).code == 0
        assert states_of(run)[-1] == cut
    assert weights_of(run) == weights_of(text_run)
    assert log_of(run) == log_of(text_run)
    drawn = "samples/step-00000040.txt"
    assert (run / drawn).read_bytes() == (text_run / drawn).read_bytes()
    assert len((run / drawn).read_text().splitlines()) == 16
    for name in ("gentool.json", "vocab.tsv"):
        assert (run / "tokenizer" / name).read_bytes() == (
            text_run / "tokenizer" / name
        ).read_bytes()


def test_embeddings_are_trained_and_averaged_with_the_rest(text_run):
    with safe_open(text_run / "model.safetensors", framework="pt") as file:
        E = file.get_tensor("embedding.weight")
    assert E.shape == (load(text_run / "tokenizer").size, 8)
    with safe_open(text_run / "state/step-00000040/model.safetensors", framework="pt") as file:
        raw = file.get_tensor("embedding.weight")
    assert 0 < (E - raw).abs().max() < 0.1


def test_collapse_is_a_warning_in_the_log(train, monkeypatch):
    figures = {"embedding_norm": 2.0, "embedding_distance": 0.01}
    monkeypatch.setattr(Backend, "watch", lambda self, network: (figures, "they collapse"))
    result = train("--steps", 5)
    assert result.code == 0 and "step 5: warning: they collapse" in result.err


def test_the_card_and_the_dry_run_name_the_tokenizer(train, text_run, tmp_path):
    tokenizer = load(text_run / "tokenizer")
    card = (text_run / "README.md").read_text()
    assert tokenizer.hash in card and "gentool sample diffusion-lm" in card
    result = train("--dry-run")
    assert result.code == 0 and f"tokenizer: words, {tokenizer.size} tokens" in result.out
    assert "data.length = 24" in result.out and not (tmp_path / "run").exists()


def test_pairs_and_networks_that_cannot_be_are_refused_before_training(train, tmp_path):
    for setting in ("data.language=en-zh", "model.time_features=7", "model.heads=3",
                    "sample.steps=21", "sample.length=23"):  # fmt: skip
        result = train("--set", setting)
        assert result.code == 2 and "bug" not in result.err, result.err
        assert not (tmp_path / "run").exists()


# --- the tokenizer of a run


def test_the_tokenizer_is_saved_and_its_hash_is_in_the_header(text_run):
    tokenizer = load(text_run / "tokenizer")
    assert header_of(text_run)["tokenizer_sha256"] == tokenizer.hash
    config = json.loads((text_run / "config.json").read_text())
    assert config["data"]["tokenizer"] == tokenizer.hash
    text = SceneTexts("test", "en")[0].text
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.special("unk") not in tokenizer.encode(text)


def test_without_its_tokenizer_or_with_another_a_checkpoint_is_bad(cli, copy, train):
    vocabulary = copy / "tokenizer/vocab.tsv"
    words = vocabulary.read_text()
    first, second, rest = words.split("\n", 2)
    vocabulary.write_text("\n".join([second, first, rest]))
    for command in (
        ("sample", "diffusion-lm", "-c", copy, "-n", 1),
        ("decode", "diffusion-lm", "-c", copy),
        ("eval", "diffusion-lm", "-c", copy, "-n", 1),
        ("inspect", copy),
    ):
        result = cli(*command, "-q")
        assert result.code == 4 and "tokenizer" in result.err and result.out == ""
    assert train("--resume", "latest", "--steps", 50).code == 4
    shutil.rmtree(copy / "tokenizer")
    result = cli("sample", "diffusion-lm", "-c", copy, "-n", 1, "-q")
    assert result.code == 4 and "tokenizer" in result.err


def test_init_keeps_the_tokenizer(train, text_run, tiny_run, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("a large red sheep\nthe sheep is above a small cross\n" * 10)
    given = ("--data", texts, "--steps", 2)
    assert train(*given, "--init", text_run).code == 0
    run = tmp_path / "run"
    assert load(run / "tokenizer").hash == load(text_run / "tokenizer").hash
    assert header_of(run)["tokenizer_sha256"] == header_of(text_run)["tokenizer_sha256"]
    assert train(*given, out=tmp_path / "fresh").code == 0
    assert "sheep" in load(tmp_path / "fresh/tokenizer").counts
    result = train("--init", text_run, "--set", "tokenizer.kind=bpe", out=tmp_path / "no")
    assert result.code == 2 and "tokenizer" in result.err
    result = train("--init", tiny_run, out=tmp_path / "no")
    assert result.code == 4 and "ddpm" in result.err and not (tmp_path / "no").exists()


# --- eval


def test_figures_come_out_the_same_twice(cli, text_run):
    command = ("eval", "diffusion-lm", "-c", text_run, "-n", 8, "--json", "--seed", 2, "-q")
    first, second = cli(*command), cli(*command)
    assert first.code == 0 and first.stdout == second.stdout and first.err == ""
    values = {record["metric"]: record["value"] for record in first.records}
    assert values["loss"] > 0 and values["scene_captions"] == 0, "hardly trained"
    assert values["scene_split[train]"] is None and 0 < values["distinct-1"] <= 1
    for record in first.records:
        assert list(record) == ["metric", "value", "n", "seed", "split", "settings"]
        assert record["n"] == 8
    assert cli(*command, "--metric", "bpd").code == 2
    assert cli(*command, "--metric", "loss", "--gate", "loss<=0").code == 7


def test_the_loss_is_measured_on_the_data_given(cli, text_run, tmp_path):
    def loss(spec):
        result = cli("eval", "diffusion-lm", "-c", text_run, "-n", 8, "--json", "--metric", "loss",
                     "--data", spec)  # fmt: skip
        assert result.code == 0, result.err
        return result.records[0]["value"]

    texts = tmp_path / "texts.txt"
    texts.write_text("".join(SceneTexts("train", "en")[i].text + "\n" for i in range(8)))
    found = [loss(spec) for spec in ("scenes:test", "scenes:test-novel", texts)]
    assert len(set(found)) == 3
    texts.write_text("quite other words\n" * 8)
    assert loss(texts) != found[2]


def test_a_model_of_chinese_captions_or_of_columns_is_measured_on_other_data(cli, train, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("a red circle\na blue cross\n" * 8)
    (tmp_path / "t.csv").write_text("words,more\n" + "a red circle,1\na blue cross,2\n" * 8)
    for name, given, spec in (
        ("zh", ("--set", "data.language=zh"), texts),
        ("csv", ("--data", tmp_path / "t.csv", "--set", "data.text_column=words"), "scenes:test"),
    ):
        assert train(*given, "--steps", 1, out=tmp_path / name).code == 0
        result = cli("eval", "diffusion-lm", "-c", tmp_path / name, "-n", 4, "--metric", "loss",
                     "--data", spec)  # fmt: skip
        assert result.code == 0, result.err


@pytest.mark.parametrize("language", ["en", "zh"])
def test_captions_count_and_shuffled_words_do_not(language):
    source = SceneTexts("test", language)
    texts = [source[i].text for i in range(40)]
    figures = caption_figures(texts)
    assert figures["scene_captions"] == 1 and figures["scene_split[test]"] == 1
    shuffled = []
    for number, text in enumerate(texts):
        words = text.split() if language == "en" else list(text)
        order = torch.randperm(len(words), generator=generator("shuffle", number)).tolist()
        shuffled.append((" " if language == "en" else "").join(words[i] for i in order))
    assert caption_figures(shuffled)["scene_captions"] < 0.05
    assert caption_figures([""] * 4)["scene_captions"] == 0
    assert caption_figures([texts[0], *["no scene"] * 3])["scene_captions"] == 0.25


def test_diversity_of_known_texts():
    figures = diversity_figures(["a b a", "a a", "a b a", ""])
    # words: a b a a a a b a, 2 different of 8; pairs: ab ba aa ab ba, 3 of 5, of which 1 repeats
    assert figures == pytest.approx(
        {"distinct-1": 2 / 8, "distinct-2": 3 / 5, "repetition": 1 / 5, "duplicates": 1 / 4}
    )
    assert diversity_figures(["红红圆"]) == {
        "distinct-1": 2 / 3, "distinct-2": 1.0, "repetition": 0.5, "duplicates": 0.0,
    }  # fmt: skip
    assert diversity_figures([""])["distinct-1"] is None
