"""`gentool sample` and `decode` of diffusion-lm: lines in, lines out, the same ones every time."""

import io
import json
import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from conftest import fails

from gentool import sampling
from gentool.backends.diffusion_lm.backend import Backend
from gentool.checkpoint.load import load_checkpoint
from gentool.errors import BadDataError
from gentool.sampling import fill_lines, most_alike, sample_settings
from gentool.tokenizers.words import Words


@pytest.fixture
def sample(cli, text_run):
    """`sample("-n", 3, …)` samples from the tiny run."""

    def call(*arguments):
        return cli("sample", "diffusion-lm", "--checkpoint", text_run, *arguments)

    return call


@pytest.fixture
def decode(cli, text_run, monkeypatch):
    """`decode(b"a ___ circle\\n", …)` gives the tiny run these lines."""

    def call(lines, *arguments):
        stream = io.TextIOWrapper(io.BytesIO(lines or b""), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stream)
        return cli("decode", "diffusion-lm", "-c", text_run, *arguments)

    return call


@pytest.fixture
def calls(monkeypatch):
    """How many rows each call of Backend.draw was for."""
    draw, found = Backend.draw, []

    def counting(self, network, rng, *more, **given):
        found.append(len(rng))
        return draw(self, network, rng, *more, **given)

    monkeypatch.setattr(Backend, "draw", counting)
    return found


# --- sample


def test_a_sample_on_each_line_and_what_they_were_drawn_with_beside(sample):
    result = sample("-n", 7, "--seed", 3)
    assert result.code == 0 and len(result.out.splitlines()) == 7
    assert "steps 5" in result.err and "seed 3" in result.err and "nearly tie" in result.err
    assert sample("-n", 7, "--seed", 3, "-q").err == ""
    assert "<" not in result.out, "no special tokens"


@pytest.mark.parametrize("kind", ["--sampler ancestral", "--sampler ddim --eta 0.5",
                                  "--sampler dpm++ --spacing leading", "--clamp 0.5",
                                  "--length 6", "--mbr 3"])  # fmt: skip
def test_texts_depend_on_seed_and_number_alone(sample, kind):
    def draw(*arguments):
        result = sample("--seed", 3, "--steps", 10, "-q", *kind.split(), *arguments)
        assert result.code == 0, result.err
        return result.out.splitlines()

    seven = draw("-n", 7)
    assert draw("-n", 7) == seven
    assert draw("-n", 7, "-b", 1) == draw("-n", 7, "-b", 3) == seven
    assert draw("--index", 5) == seven[5:6] and draw("-n", 2) == seven[:2]
    assert len(set(seven)) > 1 and draw("-n", 7, "--seed", 4) != seven


def test_json_has_a_record_for_each_sample(sample):
    records = sample("-n", 3, "--seed", 5, "--json").records
    assert [list(record) for record in records] == [["index", "seed", "text", "tokens", "ties"]] * 3
    assert [record["index"] for record in records] == [0, 1, 2]
    lines = sample("-n", 3, "--seed", 5).out.splitlines()
    assert [record["text"] for record in records] == lines
    [record] = sample("--index", 17, "--json").records
    assert record["index"] == 17 and 0 <= record["ties"] <= record["tokens"] <= 24


@pytest.mark.parametrize("length", [1, 6, 22])
def test_length_control_gives_exactly_so_many_words(sample, length):
    records = sample("-n", 5, "--length", length, "--json").records
    assert [len(record["text"].split()) for record in records] == [length] * 5
    assert [record["tokens"] for record in records] == [length] * 5
    fails(sample("-n", 1, "--length", 23, "-q"), 2, "22")


def test_a_file_appears_whole_or_not_at_all(sample, tmp_path, monkeypatch):
    out = tmp_path / "new/lines.txt"
    assert sample("-n", 3, "--out", out).out == ""
    assert out.read_text() == sample("-n", 3).out
    draw, times = Backend.draw, count()

    def failing(self, *arguments, **given):
        if next(times) == 1:
            raise MemoryError
        return draw(self, *arguments, **given)

    monkeypatch.setattr(Backend, "draw", failing)
    result = sample("-n", 4, "-b", 2, "--out", tmp_path / "other")
    assert result.code == 6 and f"the lines so far are in {tmp_path}/other.part" in result.err
    assert {path.name for path in tmp_path.rglob("*")} == {"new", "lines.txt", "other.part"}
    kept = (tmp_path / "other.part").read_text()  # the first batch, and that is not all
    assert kept and out.read_text().startswith(kept)
    fails(sample("-n", 1, "--out", tmp_path / "new", "-q"), 2, "folder")
    monkeypatch.undo()
    assert sample("-n", 1, "--out", tmp_path / "other").code == 0
    assert (tmp_path / "other.part.old").read_text() == kept


@pytest.mark.parametrize("option", ["--steps 21", "--steps 0", "--length -1", "--mbr 0",
                                    "--clamp 2", "--sampler euler", "--class ant"])  # fmt: skip
def test_impossible_values_are_usage_errors(sample, option):
    result = sample("-n", 1, "-q", *option.split())
    assert result.code == 2 and result.out == "" and "bug" not in result.err


def test_the_consensus_is_the_one_most_like_the_others():
    assert most_alike([[9, 9, 9, 9], [1, 2, 3, 4, 6], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 7]]) == 2
    assert most_alike([[1], [2], [2]]) == 1
    assert most_alike([[], [1, 2], [1, 2]]) == 1 and most_alike([[], []]) == 0


def test_mbr_chooses_among_draws_of_the_same_sample(sample, calls, monkeypatch):
    first = sample("-n", 3, "-q").out.splitlines()
    seen = []
    monkeypatch.setattr(sampling, "most_alike", lambda texts: seen.append(texts) or 0)
    calls.clear()
    assert sample("-n", 3, "-q", "--mbr", 4).out.splitlines() == first
    assert calls == [3] * 4 and [len(candidates) for candidates in seen] == [4] * 3
    assert any(len(set(map(tuple, candidates))) > 1 for candidates in seen)


def test_progress_counts_the_steps_of_all_candidates(text_run):
    loaded = load_checkpoint(text_run, "diffusion-lm")
    settings = sample_settings(loaded, {"mbr": 3})
    told = []
    drawn = sampling.draw_texts(
        loaded, range(4), 0, settings, batch_size=2, progress=lambda *done: told.append(done)
    )
    assert len(list(drawn)) == 4
    assert told == [(n, 3 * 2 * 5) for n in range(1, 31)]


def test_mbr_without_sacrebleu_is_one_line_before_anything_is_drawn(sample, calls, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    fails(sample("-n", 1, "--mbr", 2, "-q"), 2, "sacrebleu", "pip install sacrebleu")
    assert calls == [] and sample("-n", 1).code == 0


# --- decode


def test_blanks_are_filled_and_what_is_given_comes_back(decode, text_run):
    word = "(" + "|".join(load_checkpoint(text_run, "diffusion-lm").tokenizer.counts) + ")"
    expected = {  # how a line comes back, W for a word
        "a ___ circle": "a W circle",
        "": "",
        "  two   spaces, no blank <pad>": "  two   spaces, no blank <pad>",
        "___:3 unheard-of ___ [MASK]\t___:2.": "W W W unheard-of W [MASK]\tW W.",
        "汉字___。x____": "汉字W。xW",
    }
    result = decode("\r\n".join(expected).encode())
    assert result.code == 0 and len(result.out.splitlines()) == len(expected)
    for line, pattern in zip(result.out.splitlines(), expected.values(), strict=True):
        assert re.fullmatch(re.escape(pattern).replace("W", word), line), line


def test_records_in_order_whatever_the_batch(decode, tmp_path):
    text = b"".join(b"___:2 circle %d\n\n" % i for i in range(4))
    result = decode(text, "--json", "--seed", 2)
    assert [(r["line"], r["seed"]) for r in result.records] == [(i, 2) for i in range(1, 9)]
    for size in (1, 3):
        assert decode(text, "--json", "--seed", 2, "-b", size).out == result.out
    (tmp_path / "lines.txt").write_bytes(text)
    assert decode(None, tmp_path / "lines.txt", "--json", "--seed", 2).out == result.out
    out = tmp_path / "out.txt"
    assert decode(text, "--seed", 2, "--out", out).out == ""
    assert out.read_text().splitlines() == [record["text"] for record in result.records]
    assert decode(text, "--seed", 3, "--json").out != result.out
    assert decode(b"").out == "" and decode(b"").code == 0
    fails(decode(None, tmp_path / "nothing", "-q"), 3)


def test_num_fills_each_line_in_so_many_ways(decode):
    lines = decode(b"___:4 a\n\nb\n___:0\n", "-n", 3, "-q", "--steps", 10).out.splitlines()
    assert len(lines) == 12 and lines[3:] == ["", "", "", "b", "b", "b", "", "", ""]
    assert len(set(lines[:3])) > 1
    assert decode(b"___:4 a\n", "-q", "--steps", 10).out.splitlines() == lines[:1]


def test_lines_without_blanks_and_bad_ones_cost_nothing(decode, calls):
    assert decode(b"\nno blank\n" + b"a " * 90 + b"\n").code == 0
    assert decode(b"___:40\n___:0\n", "-q").out == "\n\n"
    assert calls == []
    decode(b"\na ___\n___:40\n___\n")
    assert calls == [2]


@pytest.mark.parametrize(
    "bad, word",
    [
        (b"___:23", "25 tokens"),
        (b"a " * 22 + b"___", "25 tokens"),
        (b"___:0", "0 tokens"),
        (b"___:99999999999999999999", "tokens"),
        (b"a \xff ___", "UTF-8"),
    ],
)
def test_a_bad_line_is_told_and_left_empty_or_is_the_end(decode, tmp_path, bad, word):
    text = b"a ___\n" + bad + b"\nb ___\n"
    result = decode(text, "-q")
    first, middle, last = result.out.split("\n")[:3]
    assert result.code == 4 and (first[:2], middle, last[:2]) == ("a ", "", "b ")
    assert "line 2" in result.err and word in result.err and "1 of 3 lines" in result.err
    assert "bug" not in result.err
    stopped = decode(text, "-q", "--on-error", "stop")
    assert stopped.code == 4 and stopped.out == first + "\n" and "line 2" in stopped.err
    decode(text, "-q", "--on-error", "stop", "--out", tmp_path / "x")
    [part] = tmp_path.iterdir()  # what there was is not lost, and not taken for all of it
    assert part.name == "x.part" and part.read_text() == first + "\n"
    fails(decode(text, "-q", "--on-error", "hope"), 2)


def test_input_without_end_is_read_as_needed(text_run):
    loaded = load_checkpoint(text_run, "diffusion-lm")
    settings = sample_settings(loaded, {})
    taken = []
    endless = (taken.append(i) or f"a ___ {i}" for i in count())
    filled = fill_lines(loaded, endless, 0, settings, 1, batch_size=2)
    assert [next(filled)[0] for _ in range(3)] == [0, 1, 2] and len(taken) == 4


def test_a_line_is_filled_though_the_next_one_is_late(text_run):
    loaded = load_checkpoint(text_run, "diffusion-lm")
    taken = []
    lines = (taken.append(line) or line for line in ("a ___", None, "b ___", "c ___", None))
    filled = fill_lines(loaded, lines, 0, sample_settings(loaded, {}), 1, batch_size=64)
    assert next(filled)[0] == 0 and taken == ["a ___", None]
    assert [number for number, _ in filled] == [1, 2]


def test_a_text_with_ends_of_lines_is_one_line(cli, text_run, monkeypatch):
    monkeypatch.setattr(Words, "decode", lambda self, ids: "one\ntwo")
    plain = cli("sample", "diffusion-lm", "-c", text_run, "-n", 2, "-q")
    assert plain.out == "one two\none two\n"
    records = cli("sample", "diffusion-lm", "-c", text_run, "-n", 1, "-q", "--json").records
    assert records[0]["text"] == "one\ntwo"


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe of POSIX")
def test_a_reader_that_leaves_ends_it_silently(text_run):
    gentool = [sys.executable, "-m", "gentool", "decode", "diffusion-lm", "-c", str(text_run)]
    script = f"yes 'é ___' | {' '.join(gentool)} -q -b 2 | head -3; echo ${{PIPESTATUS[1]}}"
    run = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        timeout=300,
    )
    lines = run.stdout.decode().splitlines()
    assert lines[3:] == ["141"]
    assert all("does not know" in line for line in run.stderr.decode().splitlines())
    assert all(line.startswith("é ") for line in lines[:3])


def test_words_that_the_model_does_not_know_are_told_where_blanks_are_filled(decode):
    result = decode(b"xyzzy\na ___ circle\na xyzzy ___\n")
    assert result.code == 0 and result.out.splitlines()[0] == "xyzzy"
    assert result.err.count("does not know") == 1
    assert "line 3 has words that this model does not know" in result.err


def test_fill_lines_takes_errors_for_lines(text_run):
    loaded = load_checkpoint(text_run, "diffusion-lm")
    wrong = BadDataError("wrong")
    [(number, found)] = fill_lines(loaded, [wrong], 0, sample_settings(loaded, {}), 1, batch_size=2)
    assert number == 0 and found is wrong


# --- other verbs that meet a second backend


def test_a_checkpoint_of_another_backend(cli, tiny_run, text_run):
    for verb in ("sample", "decode", "eval"):
        fails(cli(verb, "diffusion-lm", "-c", tiny_run, "-q"), 4, "ddpm")
        fails(cli(verb, "ddpm", "-c", text_run, "-q"), 4, "diffusion-lm")
        fails(cli(verb, "no-such-backend"), 2, "no-such-backend")


def test_list_and_inspect_know_both(cli, text_run):
    names = {record["name"] for record in cli("list", "backends", "--json").records}
    assert {"ddpm", "diffusion-lm"} <= names
    helpers = {record["name"] for record in cli("list", "helpers", "--json").records}
    assert {"judge", "diffusion-lm-control"} <= helpers and not helpers & names
    for line in cli("list", "samplers").out.splitlines():
        assert "ddpm" in line and "diffusion-lm" in line
    facts = json.loads(cli("inspect", text_run, "--json").out)
    assert facts["backend"] == "diffusion-lm" and facts["tokenizer"]["kind"] == "words"
