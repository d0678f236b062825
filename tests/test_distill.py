"""`gentool train teacher` and `gentool distill`: a corpus in a teacher's words, made in one go or
in several, by a teacher of our own or one of transformers."""

import json
import shutil
import signal
import sys

import pytest
import torch
from conftest import fails, log_of, weights_of
from encoders import text_encoder
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from gentool.checkpoint.load import load_checkpoint
from gentool.cli.console import console
from gentool.data import holdout
from gentool.data.config import PairData
from gentool.data.holdout import text_train_and_validation
from gentool.data.scenes import SceneTexts
from gentool.rng import BatchRng, generator, torch_seed
from gentool.teacher import distill as distillation
from gentool.teacher.generate import Teacher, open_teacher
from gentool.training.run import held

PAIRS = [SceneTexts("train", "en-zh")[i] for i in range(60)]
ENGLISH, CHINESE = [p.source for p in PAIRS], [p.text for p in PAIRS]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A T5 with random weights, as transformers saves it, with its tokenizer."""
    return seq2seq(tmp_path_factory.mktemp("hub") / "t5", tokenizer=True)


def seq2seq(folder, tokenizer, vocabulary=27):
    if tokenizer:
        text_encoder("t5", folder)
    config = T5Config(
        vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        decoder_start_token_id=2, pad_token_id=2, eos_token_id=1, max_position_embeddings=24,
    )  # fmt: skip
    with torch_seed("t5"):
        T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture
def distill(cli, teacher_run, corpus):
    """`distill(out, …)` by the trained teacher from the corpus."""

    def call(out, *arguments, teacher=teacher_run, data=corpus):
        return cli("distill", "--teacher", teacher, "--data", data, "--out", out, *arguments)

    return call


@pytest.fixture
def window(monkeypatch):
    monkeypatch.setattr(distillation, "WINDOW", 16)


def lines_of(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


# --- the teacher


def test_a_teacher_learns_and_a_cut_one_ends_in_the_same_bytes(
    cli, teacher_run, teacher_recipe, tmp_path
):
    records = [record for record in log_of(teacher_run) if "loss" in record]
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    drawn = (teacher_run / "samples/step-00000120.txt").read_text(encoding="utf-8").splitlines()
    assert len(drawn) == 3 and drawn[0].split("\t")[0] in ENGLISH
    out = tmp_path / "cut"
    given = ("train", "teacher", "--recipe", teacher_recipe, "--out", out, "-q")
    assert cli(*given, "--stop-at", 13).code == 0
    assert cli(*given, "--resume", "latest").code == 0
    assert weights_of(out) == weights_of(teacher_run) and log_of(out) == log_of(teacher_run)
    assert cli("sample", "teacher", "-c", teacher_run).code == 2
    assert cli("inspect", teacher_run).code == 0


def test_the_loss_is_that_of_each_token_after_those_before_it(teacher_run):
    loaded = load_checkpoint(teacher_run, "teacher")
    backend, net = loaded.backend, loaded.network
    source, _ = backend.sources()
    examples = [backend.prepare(source, i, generator("x"), True) for i in range(5)]
    batch = backend.collate(examples, BatchRng([generator("x")] * 5))
    found = backend.loss(net, batch)["tokens"].mean().item()
    bos, eps = backend.tokenizer.special("bos"), loaded.config.loss.smoothing
    each = []
    for example in examples:
        src_ids = torch.tensor([example.src_ids])
        for i, id in enumerate(example.tgt_ids):
            before = torch.tensor([[bos, *example.tgt_ids[:i]]])
            with torch.no_grad():
                logits = net(src_ids, torch.ones_like(src_ids).bool(), before)[0, -1]
            log_p = logits.log_softmax(-1)
            each.append((1 - eps) * -log_p[id] - eps * log_p.mean())
    assert found == pytest.approx(torch.stack(each).mean().item(), rel=1e-4)


@pytest.mark.parametrize("vocabularies", ["joint", "separate"])
def test_weights_that_are_tied_are_stored_once_and_tied_again(
    cli, teacher_recipe, tmp_path, vocabularies
):
    out = tmp_path / "run"
    given = ("--set", f"tokenizer.vocabularies={vocabularies}", "--steps", 2, "-q")
    assert cli("train", "teacher", "--recipe", teacher_recipe, "--out", out, *given).code == 0
    loaded = load_checkpoint(out, "teacher")
    names = [
        name for name in loaded.network.state_dict() if "shared" in name or "embed_tok" in name
    ]
    assert len(names) == {"joint": 1, "separate": 2}[vocabularies]
    marian = loaded.network.marian
    assert marian.lm_head.weight is marian.model.decoder.embed_tokens.weight
    same = marian.lm_head.weight is marian.model.encoder.embed_tokens.weight
    assert same == (vocabularies == "joint")
    assert loaded.backend.teacher(loaded.network).translate(ENGLISH[:2], 2)[0] is not None


@torch.no_grad()
def test_greedy_is_the_likeliest_token_at_each_place(teacher_run):
    loaded = load_checkpoint(teacher_run, "teacher")
    teacher = loaded.backend.teacher(loaded.network)
    bos, eos = (loaded.tokenizer.special(name) for name in ("bos", "eos"))
    for line, made in zip(ENGLISH[:4], teacher.translate(ENGLISH[:4], 1), strict=True):
        src_ids = torch.tensor([teacher.encode(line)])
        ids = [bos]
        while len(ids) <= 29 and ids[-1] != eos:
            logits = loaded.network(src_ids, torch.ones_like(src_ids).bool(), torch.tensor([ids]))
            ids.append(int(logits[0, -1].argmax()))
        assert made == loaded.tokenizer.decode(ids)


def test_translations_do_not_depend_on_the_batches_and_one_too_long_has_none(teacher_run):
    teacher = open_teacher(str(teacher_run), "cpu", "auto")
    lines = [*ENGLISH[:6], "red " * 31, *ENGLISH[6:9]]
    made = teacher.translate(lines, 3)
    assert made[6] is None and all(made[:6]) and len({*made}) > 2
    assert teacher.translate(lines, 3, batch_tokens=1) == made
    assert teacher.translate(lines[::-1], 3, batch_tokens=200) == made[::-1]
    assert teacher.translate(["a\nred", ""], 1)[0].count("\n") == 0


# --- distill


def test_targets_are_the_teacher_s_and_held_out_ones_the_references(
    distill, cli, teacher_run, corpus, tmp_path
):
    out = tmp_path / "out"
    result = distill(out, "--json", "--beam", 2)
    assert result.code == 0, result.err
    assert lines_of(out / "source.txt") == ENGLISH
    made = open_teacher(str(teacher_run), "cpu", "auto").translate(ENGLISH, 2)
    targets = lines_of(out / "target.txt")
    held_out = list(text_train_and_validation(PairData(spec=(corpus,)))[1].indices)
    assert len(held_out) == 3
    assert targets == [CHINESE[i] if i in held_out else made[i] for i in range(60)]
    # The student holds out the same pairs.
    spec = f"{out / 'source.txt'},{out / 'target.txt'}"
    trained_on, validation = text_train_and_validation(PairData(spec=(spec,)))
    assert list(validation.indices) == held_out and trained_on.size == 57

    found = {record["metric"]: record for record in result.records}
    assert list(found) == [
        *("bleu", "chrf", "repetition"), "bleu[train]", "chrf[train]", "repetition[train]",
        *("changed", "kept"),
    ]  # fmt: skip
    assert found["bleu"]["n"] == 3 and found["bleu[train]"]["n"] == 57
    assert "tok:zh" in found["bleu"]["settings"]["signature"]
    changed = [made[i] != CHINESE[i] for i in range(60) if i not in held_out]
    assert found["changed"]["value"] == sum(changed) / 57 > 0.5
    assert found["kept"]["value"] == 0
    for record in result.records:
        assert list(record) == ["metric", "value", "n", "seed", "split", "settings"]
        assert record["settings"]["beam"] == 2 and "seconds" not in record["settings"]
    report = json.loads((out / "report.json").read_text())
    assert report["figures"] == result.records and isinstance(report["seconds"], float)
    assert spec in result.err and f"60 pairs in {report['seconds']} s, beam 2" in result.err
    fails(distill(out, "-q", "--beam", 2), 2, "already holds", "--overwrite")
    own = ("distill", "--teacher", teacher_run, "--out", out, "--overwrite", "--num", 30, "-q")
    assert cli(*own).code == 0, "the data that the teacher was trained on"
    assert lines_of(out / "source.txt") == ENGLISH[:30]


def test_figures_of_a_perfect_teacher_and_of_one_that_says_the_wrong_things(
    corpus, tmp_path, monkeypatch
):
    def figures(out, said):
        told = dict(zip(ENGLISH, said, strict=True))
        monkeypatch.setattr(Teacher, "translate", lambda self, lines, *_: [told[x] for x in lines])
        teacher = Teacher("x", "x", None, str.split, str, 0, 99)
        found = distillation.distill(
            teacher, PairData(spec=(corpus,)), None, out, beam=5, batch_tokens=99, overwrite=False,
            poll=lambda: None, reporter=console,
        )  # fmt: skip
        return {figure.metric: figure.value for figure in found}

    perfect = figures(tmp_path / "perfect", CHINESE)
    assert perfect["bleu"] == pytest.approx(100) and perfect["bleu[train]"] == pytest.approx(100)
    assert perfect["changed"] == perfect["kept"] == 0
    assert lines_of(tmp_path / "perfect/target.txt") == CHINESE
    wrong = figures(tmp_path / "wrong", CHINESE[1:] + CHINESE[:1])
    assert wrong["bleu"] < 50 and wrong["bleu[train]"] < 50 and wrong["changed"] > 0.9
    # Where a source is too long for the teacher, or it says nothing, the reference stays.
    silent = figures(tmp_path / "silent", [None, ""] * 30)
    assert silent["kept"] == 1 and silent["changed"] == 0 and silent["bleu"] == 0
    assert lines_of(tmp_path / "silent/target.txt") == CHINESE


def test_one_that_was_cut_goes_on_to_the_same_bytes(distill, tmp_path, monkeypatch, window):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert distill(whole, "-q").code == 0
    translate, calls = Teacher.translate, []

    def failing(self, *given):
        calls.append(given)
        if len(calls) == 3:
            raise MemoryError
        return translate(self, *given)

    monkeypatch.setattr(Teacher, "translate", failing)
    assert distill(cut, "-q").code == 6
    assert json.loads((cut / "report.json").read_text())["done"] == 32
    assert not (cut / "target.txt").exists()
    with (cut / "lines.jsonl").open("a") as file:
        file.write('{"source": "half a li')  # that a crash left
    fails(distill(cut, "-q", "--beam", 3), 2, "beam was 5, is 3", "--overwrite")
    calls.append("no more")
    result = distill(cut)
    assert result.code == 0 and "at pair 32 of 60" in result.err
    assert sum(len(given[0]) for given in calls[4:]) == 28, "what was done is not done again"
    for name in ("lines.jsonl", "source.txt", "target.txt"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_two_do_not_write_one_corpus(distill, tmp_path):
    with held(tmp_path / "out"):  # another descriptor is as another process
        fails(distill(tmp_path / "out", "-q"), 2, "another process is writing")
    assert not (tmp_path / "out").exists()


def test_other_data_are_read_as_the_teacher_was_told_to_translate(distill, teacher_run, tmp_path):
    """From Chinese, here."""
    teacher = shutil.copytree(teacher_run, tmp_path / "teacher")
    config = json.loads((teacher / "config.json").read_text())
    config["config"]["data"] |= {"language": "zh-en", "spec": ["scenes"]}
    (teacher / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    assert distill(out, "-q", "--num", 30, teacher=teacher, data="scenes").code == 0
    assert lines_of(out / "source.txt") == [
        SceneTexts("train", "zh-en")[i].source for i in range(30)
    ]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_it_after_a_batch(distill, tmp_path, monkeypatch, window, number, code):
    translate, calls = Teacher.translate, []

    def asked_to_stop(self, *given):
        calls.append(given)
        if len(calls) == 2:
            signal.raise_signal(number)
        return translate(self, *given)

    monkeypatch.setattr(Teacher, "translate", asked_to_stop)
    result = distill(tmp_path / "out", "--beam", 1)
    assert result.code == code and "the same command goes on" in result.err and not result.out
    assert json.loads((tmp_path / "out/report.json").read_text())["done"] == 16
    assert distill(tmp_path / "out", "-q", "--beam", 1).code == 0


def test_what_a_killed_training_of_a_teacher_left_is_gone_on_with(distill, tmp_path, window):
    out = tmp_path / "out"
    (out / "teacher").mkdir(parents=True)
    (out / ".teacher.lock").touch()
    assert distill(out, "-q", "--beam", 1).code == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").touch()
    assert distill(tmp_path / "other", "-q").code == 2


def test_of_a_part_the_score_is_of_pairs_that_the_teacher_held_out(
    distill, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(holdout, "SHARE", 4)
    data = PairData(spec=(corpus,))
    parts = ((n, distillation.open_corpus(data, n, "some")) for n in range(20, 60))
    n, part = next((n, p) for n, p in parts if 0 < len(p.unseen) < len(p.held_out))
    found = {r["metric"]: r for r in distill(tmp_path / "out", "--num", n, "--json").records}
    assert found["bleu"]["n"] == len(part.unseen) and found["bleu"]["split"] == "held out"
    assert found["bleu[train]"]["n"] == n - len(part.held_out)
    assert distillation.open_corpus(data, n).unseen == part.held_out
    endless = PairData(spec=("scenes",), language="en-zh")
    for config, held_out in ((endless, "some"), (data, "none")):
        assert distillation.open_corpus(config, 40, held_out).unseen == set()


def test_no_more_time_keeps_what_is_done(distill, tmp_path, window, monkeypatch):
    out = tmp_path / "out"
    clock = iter([0.0] + [1.0] * 6 + [99.0] * 99)
    monkeypatch.setattr("gentool.cli.distill.time.monotonic", lambda: next(clock))
    result = distill(out, "--max-time", "10s", "-b", 300)
    assert result.code == 0 and result.out == "" and "the same command goes on" in result.err
    assert 0 < json.loads((out / "report.json").read_text())["done"] < 60
    monkeypatch.undo()
    monkeypatch.setattr(distillation, "WINDOW", 16)
    assert distill(out, "-q", "-b", 300).code == 0
    assert len(lines_of(out / "target.txt")) == 60


def test_a_teacher_is_trained_first_where_none_is_given(cli, teacher_recipe, teacher_run, tmp_path):
    out = tmp_path / "out"
    command = ("distill", "--recipe", teacher_recipe, "--out", out, "--num", 8)
    endless = ("distill", "--recipe", "teacher-scenes", "--out", out, "-q")
    fails(cli(*endless), 2, "no end", "--num")
    assert not out.exists()
    assert cli(*command, "--set", "train.steps=20", "--max-time", "0.01s").code == 0
    assert (out / "teacher/config.json").is_file() and not (out / "report.json").exists()
    result = cli(*command, "--set", "train.steps=20")
    assert result.code == 0, result.err
    assert "resuming" in result.err and len(lines_of(out / "target.txt")) == 8
    again = cli(*command, "--set", "train.steps=20", "--overwrite")
    assert again.code == 0 and "already at step 20" in again.err, "it is at its end"
    fails(cli(*command, "--teacher", teacher_run, "-q"), 2, "--recipe")
    fails(
        cli("distill", "--recipe", "judge-scenes", "--out", out / "x", "-q"), 2, "not for a teacher"
    )


def test_a_student_trains_on_it(distill, cli, pairs_recipe, tmp_path):
    assert distill(tmp_path / "out", "-q", "--beam", 1).code == 0
    spec = f"{tmp_path / 'out/source.txt'},{tmp_path / 'out/target.txt'}"
    student = ("train", "mask-predict", "--recipe", pairs_recipe, "--out", tmp_path / "student")
    assert cli(*student, "--data", spec, "--steps", 2, "-q").code == 0


# --- teachers of transformers, and what is none


def test_any_seq2seq_checkpoint_teaches(distill, hub, tmp_path):
    out = tmp_path / "out"
    result = distill(out, "--json", "--num", 12, "--beam", 2, teacher=hub)
    assert result.code == 0, result.err
    assert lines_of(out / "source.txt") == ENGLISH[:12] and len(lines_of(out / "target.txt")) == 12
    assert result.records[0]["settings"]["teacher"] == str(hub)
    told = [json.loads(line)["teacher"] for line in lines_of(out / "lines.jsonl")]
    assert open_teacher(str(hub), "cpu", "auto").translate(ENGLISH[:12], 2) == told
    assert not any("</s>" in text or "<pad>" in text for text in told)


def test_what_is_no_teacher_is_refused(distill, cli, hub, tmp_path):
    def refused(teacher, code, *words):
        fails(distill(tmp_path / "out", "-q", teacher=teacher), code, *words)
        assert not (tmp_path / "out").exists()

    gpt2 = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1)).save_pretrained(gpt2)
    refused(gpt2, 4, "gpt2", "not seq2seq")
    refused("mask-predict-scenes", 4, "mask-predict checkpoint, not teacher")
    refused("ddpm-scenes", 4, "ddpm checkpoint, not teacher")
    refused(seq2seq(tmp_path / "bare", tokenizer=False), 4, "no tokenizer", "save_pretrained")
    refused(seq2seq(tmp_path / "small", tokenizer=True, vocabulary=20), 4, "27 tokens", "knows 20")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", 4, "no seq2seq checkpoint")
    given = ("distill", "--teacher", hub, "--out", tmp_path / "out", "-q")
    fails(cli(*given), 2, "which pairs", "--data")


def test_wrong_data_and_folders(distill, cli, hub, teacher_run, corpus, tmp_path, monkeypatch):
    (tmp_path / "short.txt").write_text("one\ntwo\n")
    source = corpus.split(",")[0]
    out = tmp_path / "out"
    both = f"{source},{tmp_path / 'short.txt'}"
    fails(distill(out, "-q", data=both), 4, "has 60 lines", "has 2", "not parallel")
    fails(distill(out, "-q", data=source), 2, "single texts")
    fails(distill(out, "-q", "--data", source), 2, "pairs of texts", "single ones")
    fails(distill(out, "-q", data="none.en,none.de"), 3, "none.en")
    fails(distill(out, "-q", "--set", "model.heads=2"), 2, "only data.KEY")
    fails(distill(out, "-q", "--set", "data.lenght=2"), 2, "length")
    fails(distill(out, "-q", data="scenes"), 2, "no end", "--num")
    assert not out.exists()
    fails(distill(tmp_path, "-q"), 2, "holds no distilled corpus")
    fails(distill(tmp_path / "short.txt", "-q"), 2, "is a file")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/report.json").write_text("{")
    fails(distill(tmp_path / "damaged", "-q"), 4, "report.json", "--overwrite")
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        fails(distill(out, "-q"), 2, "one process")
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    fails(distill(out, "-q"), 2, "pip install sacrebleu")
