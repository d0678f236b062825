"""`gentool train` and `decode` of mask-predict: pairs in, lines out, in order and as they come."""

import json
import os
import select
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from conftest import fails, log_of, states_of, weights_of

from gentool import translation
from gentool.backends.mask_predict import algorithm
from gentool.backends.mask_predict.backend import Backend
from gentool.checkpoint.load import load_checkpoint
from gentool.data.scenes import SceneTexts
from gentool.errors import BadDataError
from gentool.sampling import sample_settings
from gentool.streams import arriving_lines
from gentool.tokenizers import load
from gentool.translation import translate_lines

PAIRS = [SceneTexts("test", "en-zh")[i] for i in range(12)]
ENGLISH = [pair.source for pair in PAIRS]


@pytest.fixture
def decode(cli, pairs_run, tmp_path):
    """`decode(["a line", …], …)` gives the tiny run a file of these lines."""

    def call(lines, *arguments):
        path = tmp_path / "in.txt"
        path.write_bytes(b"".join(line if isinstance(line, bytes) else f"{line}\n".encode()
                                  for line in lines))  # fmt: skip
        return cli("decode", "mask-predict", path, "-c", pairs_run, "-q", *arguments)

    return call


# --- train


def test_a_run_says_what_it_is_and_its_loss_falls(pairs_run):
    records = [record for record in log_of(pairs_run) if "loss" in record]
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    for record in records:
        assert record["loss"] == pytest.approx(record["tokens"] + record["length"], rel=1e-5)
    drawn = (pairs_run / "samples/step-00000040.txt").read_text().splitlines()
    assert len(drawn) == 16 and drawn[0].split("\t")[0] == ENGLISH[0]
    tokenizer = load(pairs_run / "tokenizer")
    for text in (PAIRS[0].source, PAIRS[0].text):
        assert tokenizer.decode(tokenizer.encode(text)) == text, "one vocabulary for both sides"


def test_a_cut_run_ends_in_the_same_bytes(cli, pairs_recipe, pairs_run, tmp_path):
    run = tmp_path / "run"
    for cut in (1, 13, 40):
        given = () if cut == 1 else ("--resume", "latest")
        command = ("train", "mask-predict", "--recipe", pairs_recipe, "--out", run, *given)
        assert cli(*command, "--stop-at", cut, "-q").code == 0
        assert states_of(run)[-1] == cut
    assert weights_of(run) == weights_of(pairs_run)
    assert log_of(run) == log_of(pairs_run)


def test_parallel_lines_with_a_vocabulary_for_each_side(cli, pairs_recipe, tmp_path):
    for name, lines in {"x.en": ENGLISH, "x.zh": [pair.text for pair in PAIRS]}.items():
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    run = tmp_path / "run"
    command = (
        "train", "mask-predict", "--recipe", pairs_recipe, "--out", run, "--steps", 3, "-q",
        "--data", f"{tmp_path / 'x.en'},{tmp_path / 'x.zh'}",
    )  # fmt: skip
    separate = ("--set", "tokenizer.vocabularies=separate")
    assert cli(*command, *separate).code == 0
    tokenizer = load(run / "tokenizer")
    assert "red" in str(tokenizer.source.counts) and "red" not in str(tokenizer.target.counts)
    assert cli("decode", "mask-predict", tmp_path / "x.en", "-c", run, "-q").code == 0
    again = ("--overwrite", "--set", f"tokenizer.name={run / 'tokenizer'}")
    assert "separate" in cli(*command, *again).err
    (run / "tokenizer/source/vocab.tsv").write_text("other\t1\n")
    result = cli("decode", "mask-predict", tmp_path / "x.en", "-c", run, "-q")
    fails(result, 4, "source")


def test_data_that_are_no_pairs_are_refused_before_training(cli, pairs_recipe, tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("one\ntwo\nthree\n")
    command = ("train", "mask-predict", "--recipe", pairs_recipe, "--out", tmp_path / "r", "-q")
    fails(cli(*command, "--data", tmp_path / "a.txt"), 2, "single texts")
    both = f"{tmp_path / 'a.txt'},{tmp_path / 'b.txt'}"
    fails(cli(*command, "--data", both), 4, "has 2 lines", "has 3", "not parallel")
    fails(cli(*command, "--set", "data.layout=block"), 2, "pairs")
    fails(cli(*command, "--set", "sample.length_beam=31"), 2, "length_beam")
    assert not (tmp_path / "r").exists()


def test_there_is_nothing_to_sample(cli, pairs_run):
    for arguments in ((), ("-n", 4), ("--checkpoint", pairs_run, "--seed", 3)):
        fails(cli("sample", "mask-predict", *arguments), 2, "gentool decode mask-predict")
    assert "mask-predict" not in cli("sample", "--help").out


# --- decode


def test_a_line_for_each_line_in_order_whatever_the_batches(decode):
    lines = [*ENGLISH[:5], "", *ENGLISH[5:], "  "]
    records = decode(lines, "--json").records
    assert [record["id"] for record in records] == list(range(1, 15))
    assert [list(record) for record in records] == [["id", "text", "score", "length", "steps"]] * 14
    nothing = {"text": "", "score": None, "length": 0, "steps": 0}
    assert records[5] == {"id": 6, **nothing} and records[13] == {"id": 14, **nothing}
    scores = [record["score"] for i, record in enumerate(records) if i not in (5, 13)]
    assert len({*scores}) > 6 and max(scores) < 0, "of each source's own, in four digits"
    for size in (1, 150, 100_000):
        again = decode(lines, "--json", "-b", size).records
        assert [record["text"] for record in again] == [record["text"] for record in records]
        found = [record["score"] for i, record in enumerate(again) if i not in (5, 13)]
        assert found == pytest.approx(scores, abs=2e-4)
    backwards = decode(lines[::-1], "--json").records[::-1]
    assert [record["score"] for record in backwards] == pytest.approx(
        [record["score"] for record in records], abs=2e-4
    )
    plain = decode(lines).out.splitlines()
    assert plain == [record["text"] for record in records]
    assert decode(lines, "--steps", 1).out.splitlines() != plain
    assert decode([]).out == "" and decode([]).code == 0


def test_n_best_are_candidates_of_different_lengths_the_best_first(decode):
    records = decode(ENGLISH[:2], "--n-best", 4, "--length-beam", 6, "--json").records
    assert [record["id"] for record in records] == [1] * 4 + [2] * 4
    for four in (records[:4], records[4:]):
        scores = [record["score"] for record in four]
        assert scores == sorted(scores, reverse=True) and len({r["length"] for r in four}) == 4
    lines = decode([ENGLISH[0], ""], "--n-best", 2).out.splitlines()
    assert lines[0] == decode(ENGLISH[:1]).out.splitlines()[0] and lines[2:] == ["", ""]
    fails(decode(ENGLISH[:1], "--n-best", 6), 2, "--length-beam")
    fails(decode(ENGLISH[:1], "--n-best", 2, "--fast"), 2, "--fast")
    fails(decode(ENGLISH[:1], "--length-beam", 31), 2, "up to 30")


def test_gold_lengths_are_those_of_the_references(decode, tmp_path):
    references = tmp_path / "ref.txt"
    text = [pair.text for pair in PAIRS]
    references.write_text("\n".join(text) + "\n", encoding="utf-8")
    given = ("--gold-length", references, "--length-beam", 1, "--json")
    lengths = [record["length"] for record in decode(ENGLISH, *given).records]
    assert lengths == [len(line) + 1 for line in text]
    fails(decode([*ENGLISH, "a"], *given), 4, "line 13", "12")
    fails(decode(ENGLISH[:-1], *given), 4, "11 lines")


def test_dedup_takes_away_neighbours_that_are_equal(decode):
    raw = decode(ENGLISH, "--steps", 1).out.splitlines()
    removed = decode(ENGLISH, "--steps", 1, "--dedup").out.splitlines()
    assert raw != removed, "a model trained for 40 steps repeats itself"
    for before, after in zip(raw, removed, strict=True):
        assert after == "".join(c for i, c in enumerate(before) if not i or c != before[i - 1])


def test_fast_is_a_mode_of_its_own(decode, monkeypatch):
    one = ("--steps", 2, "--length-beam", 1)
    assert decode(ENGLISH, *one, "--fast").out == decode(ENGLISH, *one).out, "nothing is sure"
    monkeypatch.setattr(algorithm, "SURE", 1e-9)
    steps = {flag: {r["steps"] for r in decode(ENGLISH, *flag, "--json").records}
             for flag in ((), ("--fast",))}  # fmt: skip
    assert steps == {(): {10}, ("--fast",): {1}}


@pytest.mark.parametrize("bad, word", [(b"red " * 30 + b"\n", "31 tokens"), (b"\xff\n", "UTF-8")])
def test_a_bad_line_is_told_and_left_empty_or_is_the_end(decode, bad, word):
    lines = [ENGLISH[0], bad, ENGLISH[1]]
    result = decode(lines, "--json")
    assert result.code == 4 and "line 2" in result.err and word in result.err
    assert "1 of 3 lines" in result.err
    first, middle, last = result.records
    assert first["text"] and last["text"] and middle["text"] == "" and word in middle["error"]
    stopped = decode(lines, "--on-error", "stop")
    assert stopped.code == 4 and stopped.out == first["text"] + "\n"
    fails(decode(lines, "--on-error", "hope"), 2)


# --- streams


@pytest.fixture
def loaded(pairs_run):
    return load_checkpoint(pairs_run, "mask-predict")


def test_batches_hold_so_many_tokens_and_lines_of_about_one_length(loaded, monkeypatch):
    shapes = []

    def translate(self, network, src_ids, settings, **how):
        shapes.append([len(row) for row in src_ids])
        return [[None]] * len(src_ids)

    monkeypatch.setattr(Backend, "translate", translate)
    settings = sample_settings(loaded, {"length_beam": 2})
    lines = [pair.source for i in range(30) for pair in [SceneTexts("train", "en-zh")[i]]]
    found = list(translate_lines(loaded, lines, settings, batch_tokens=120))
    assert [number for number, _ in found] == list(range(30))
    assert sum(map(len, shapes)) == 30 and len(shapes) < 12
    for row in shapes:
        assert max(row) * len(row) * 2 <= 120
    assert all(max(row) - min(row) <= 3 for row in shapes[:-1])


def test_a_line_does_not_wait_for_batches_after_it(loaded, monkeypatch):
    sizes, translate = [], Backend.translate

    def counting(self, network, src_ids, settings, **how):
        sizes.append(len(src_ids))
        return translate(self, network, src_ids, settings, **how)

    monkeypatch.setattr(Backend, "translate", counting)
    settings = sample_settings(loaded, {"steps": 1})
    found = translate_lines(loaded, ["", *[ENGLISH[0]] * 30], settings, batch_tokens=500)
    assert next(found) == (0, []) and sizes == []
    assert next(found)[0] == 1 and len(sizes) == 1 and sizes[0] < 15
    assert [number for number, _ in found] == list(range(2, 31)) and sum(sizes) == 30


def test_input_without_end_is_read_as_needed_and_a_pause_sets_free_what_waits(loaded):
    settings = sample_settings(loaded, {"steps": 1})
    taken = []
    endless = (taken.append(i) or ENGLISH[i % 12] for i in count())
    found = translate_lines(loaded, endless, settings, batch_tokens=500)
    assert [next(found)[0] for _ in range(3)] == [0, 1, 2]
    assert 30 < len(taken) < 100 and translation.WINDOW == 8

    def slow():
        yield from (ENGLISH[0], BadDataError("wrong"), None)
        taken.append("asked for more")
        yield ENGLISH[1]

    taken.clear()
    found = translate_lines(loaded, slow(), settings, batch_tokens=500)
    assert [next(found)[0], next(found)[0]] == [0, 1] and taken == []
    assert next(found)[0] == 2 and taken


def test_lines_arrive_whole_and_a_pause_is_told(tmp_path, monkeypatch):
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": source}))
        lines = arriving_lines("-")
        os.write(write, "\ufeffone\ntw".encode())
        assert next(lines) == "one" and next(lines) is None
        os.write(write, b"o\r\n\n\xff\nlast")
        os.close(write)
        assert [next(lines), next(lines)] == ["two", ""]
        assert isinstance(next(lines), BadDataError) and list(lines) == ["last"]
    (tmp_path / "x").write_bytes(b"a\nb\n")
    assert list(arriving_lines(str(tmp_path / "x"))) == ["a", "b"], "a file has no pauses"


COMMAND = (sys.executable, "-m", "gentool", "decode", "mask-predict", "-q", "-c")


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe of POSIX")
def test_each_line_is_answered_before_the_next_is_asked(pairs_run):
    process = subprocess.Popen(
        [*COMMAND, str(pairs_run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        for line in ENGLISH[:3]:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            assert select.select([process.stdout], [], [], 120)[0], "no answer"
            assert process.stdout.readline().endswith("\n")
        process.stdin.close()
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe of POSIX")
def test_a_reader_that_leaves_ends_it_silently(pairs_run):
    script = f"yes 'a small red circle' | {' '.join(COMMAND)} {pairs_run} | head -5"
    run = subprocess.run(
        ["bash", "-c", f"{script}; echo ${{PIPESTATUS[1]}}"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        timeout=300,
    )
    lines = run.stdout.decode().splitlines()
    assert run.stderr == b"" and len(lines) == 6 and lines[5] == "141"
    assert len({*lines[:5]}) == 1


def test_list_and_inspect_know_it(cli, pairs_run):
    names = {record["name"] for record in cli("list", "backends", "--json").records}
    assert "mask-predict" in names
    facts = json.loads(cli("inspect", pairs_run, "--json").out)
    assert facts["backend"] == "mask-predict" and facts["tokenizer"]["kind"] == "words"
