"""Options that would do nothing, or that were given nothing, are told of; so is the environment."""

import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import fails
from PIL import Image


@pytest.mark.parametrize(
    "words, named",
    [
        (("train", "ddpm", "--dry-run", "--resume", ""), "--resume"),
        (("train", "ddpm", "--dry-run", "--init", ""), "--init"),
        (("train", "ddpm", "--dry-run", "--max-time", ""), "--max-time"),
        (("train", "ddpm", "--dry-run", "--data", ""), "--data"),
        (("sample", "ddpm", "--trace", ""), "--trace"),
        (("decode", "mask-predict", ""), "INPUT|-"),
        (("bench", "ddpm", "--steps", ""), "--steps"),
    ],
)
def test_an_empty_name_is_not_taken_for_none(cli, words, named):
    """As of a shell variable that is not set: `--resume "$STATE"` must not begin afresh."""
    fails(cli(*words), 2, f"{named} is empty")


def test_the_folder_one_is_in_is_not_an_empty_name(cli, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run)
    fails(cli("train", "ddpm", "--dry-run", "--out", "."), 2, "holds a run")
    fails(cli("train", "ddpm", "--dry-run", "--out", ""), 2, "--out is empty")
    fails(cli("train", "ddpm", "--dry-run", "--out="), 2, "--out is empty")
    fails(cli("export", "diffusers", "ddpm-scenes", "-o", ""), 2, "--out is empty")
    told = cli("sample", "ddpm", "-c", "ddpm-scenes", "--prompt", "", "--init-noise", ".")
    assert told.code and "is empty" not in told.err


@pytest.mark.parametrize("other", ["ddpm", "mvtm"])
def test_init_of_another_backend(cli, other):
    backend = {"ddpm": "mvtm", "mvtm": "ddpm"}[other]
    result = cli("train", backend, "--dry-run", "--init", f"{other}-scenes")
    fails(result, 4, f"is a {other} checkpoint, not {backend}")


@pytest.mark.parametrize(
    "words, told",
    [
        (("decode", "ddpm", "--image", "in.png", "--box", "0,0,4,4", "--sampler", "ddim"), "edit"),
        (("decode", "ddpm", "-", "--resample", "2"), "without --image"),
        (("decode", "mvtm", "-", "--blend"), "without --image"),
        (("decode", "mvtm", "--image", "x", "--box", "0,0,4,4", "--candidates", "2"), "--blend"),
        (("sample", "ddpm", "-n", "5", "--index", "5"), "0 to 4 of --num 5"),
        (("sample", "diffusion-lm", "-n", "5", "--index", "5"), "0 to 4 of --num 5"),
        (("decode", "mask-predict", "--gold-length", "-"), "standard input"),
        (("sample", "ddpm", "--sampler", "ancestral", "--eta", "0"), "--sampler ancestral"),
        (("sample", "ddpm", "--guidance-from", "0.1"), "--guidance-scale 1.0"),
        (("sample", "mvtm", "--choice-temperature", "2"), "--order undecided"),
        (("sample", "diffusion-lm", "--given", "noised"), "--length 0"),
        (("eval", "mvtm", "--guidance-scale", "1", "--guidance-schedule", "linear"), "scale 1.0"),
        (("eval", "scenes", "--images", ".", "--gate", "foo"), "--gate"),
        (("eval", "images", ".", "--ref", ".", "--features", "x", "--gate", "foo"), "--gate"),
        (("tokenizer", "train", "--kind", "foo", "--data", "scenes", "-o", "x"), "vq"),
        (("demo", "--out", __file__), "in use"),
        (("sample", "ddpm", "--out", "a.png", "--trace", "./a.png"), "--out and --trace both name"),
        (("sample", "diffusion-lm", "--out", "a.jsonl", "--trace", "a.jsonl"), "both name"),
        (("decode", "mvtm", "--image", "x.png"), "--strength X"),
        (("decode", "mvtm", "--image", "x.png", "--strength", "1.5"), "strength"),
        (("decode", "mvtm", "--image", "x", "--strength", "0.5", "--blend"), "--box or --mask"),
        (("eval", "ddpm", "--metric", "loss", "--guidance-scale", "2"), "--guidance-scale does"),
        (("eval", "ddpm", "--metric", "loss", "--sampler", "ddim"), "--sampler does nothing"),
        (("eval", "mvtm", "--metric", "reconstruction", "--steps", "2"), "--steps does nothing"),
        (("eval", "mvtm", "--metric", "loss", "--pictures", "x.png"), "metric reconstruction"),
        (("eval", "diffusion-lm", "--metric", "loss", "--control", "shape=circle"), "--control"),
        (("eval", "mask-predict", "--metric", "loss", "--fast"), "--fast does nothing for loss"),
        (("eval", "mask-predict", "--metric", "table", "--steps", 2), "--steps does nothing for"),
        (("eval", "ddpm", "--metric", "bpd", "--sampler", "ddim"), "--sampler does nothing for"),
        (("eval", "diffusion-lm", "--metric", "bound", "--clamp", 0), "--clamp does nothing for"),
        (("eval", "mask-predict", "--metric", "loss", "--gold-length"), "--gold-length does"),
        (("eval", "mask-predict", "--metric", "quality", "--twin", "x"), "for the metric twin"),
        (("bench", "ddpm", "--metric", "scenes", "--features", "x"), "metric kid or fid"),
        (("bench", "diffusion-lm", "--metric", "scenes", "--judge", "x"), "metric judge"),
        (("train", "ddpm", "--steps", "3", "--stop-at", "4"), "the run ends at 3"),
        (
            (
                "tokenizer",
                "train",
                "--kind",
                "words",
                "--data",
                "-",
                "--set",
                "length=3",
                "-o",
                "x",
            ),
            "lines of text alone",
        ),
        (
            ("tokenizer", "train", "--kind", "words", "--data", "-", "--data", "a", "-o", "x"),
            "lines of text alone",
        ),
        (("sample", "ddpm", "-n", "10000000000"), "is more than"),
        (("data", "show", "scenes", "-n", "1" + 30 * "0"), "is more than"),
        (("sample", "diffusion-lm", "--mbr", "10000"), "--mbr must be in"),
        (("sample", "ddpm", "--steps", "abc"), "(--steps abc)"),
        (("sample", "ddpm", "-n", "abc"), "(-n abc)"),
        (("sample", "ddpm", "--num=abc"), "(--num=abc)"),
    ],
)
def test_what_would_do_nothing_is_refused(cli, words, told):
    fails(cli(*words), 2, told)


@pytest.mark.parametrize("backend", ["ddpm", "mvtm"])
def test_guidance_to_nothing_is_refused(cli, tmp_path, backend):
    Image.new("RGB", (32, 32), "white").save(tmp_path / "x.png")
    (tmp_path / "lines").write_text("\n\n")
    edit = ("--image", tmp_path / "x.png", "--box", "0,0,8,8")
    for words in (edit, (tmp_path / "lines",)):
        result = cli("decode", backend, *words, "--steps", 2, "--guidance-scale", 3, "-q")
        fails(result, 2, "no line names anything to guide to")


def test_more_passes_than_tokens_are_refused(cli, tmp_path):
    (tmp_path / "lines").write_text("a small red circle in the center\n")
    decode = ("decode", "mask-predict", tmp_path / "lines", "-q", "--steps")
    fails(cli(*decode, 33), 2, "takes 32 at the most", "--steps 1 to 32")
    assert cli(*decode, 32).code == 0


def test_what_is_drawn_is_finite(cli, tmp_path):
    draw = ("sample", "ddpm", "-n", 1, "--steps", 3, "-q", "--out", tmp_path / "x.npy")
    fails(cli(*draw, "--noise-scale", "1e39"), 2, "not finite", "--noise-scale")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "given"), [("SEED", "foo"), ("SEED", "-3"), ("SEED", "1_0"), ("PRECISION", "fp8")]
)
def test_the_environment_is_told_of_by_name(cli, monkeypatch, name, given):
    monkeypatch.setenv(f"GENTOOL_{name}", given)
    fails(cli("train", "ddpm", "--dry-run"), 2, f"GENTOOL_{name} is", repr(given))


def test_a_seed_of_the_environment_is_told_of(cli, monkeypatch):
    monkeypatch.setenv("GENTOOL_SEED", "foo")
    fails(cli("sample", "ddpm"), 2, "(GENTOOL_SEED=foo)")


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "ddpm", "--metric", "scenes", "--metric", "kid", "--features", "nope"),
        ("eval", "diffusion-lm", "--metric", "scenes", "--metric", "judge", "--judge", "nope"),
        ("eval", "mask-predict", "--metric", "scenes", "--metric", "twin", "--twin", "nope"),
    ],
)
def test_what_a_metric_needs_is_looked_for_first(cli, monkeypatch, words):
    from gentool.evaluate.metrics import METRICS, Metric

    for metrics in METRICS.values():
        failing = Metric(lambda request: pytest.fail("measured"))
        monkeypatch.setitem(metrics, "scenes", failing)
    result = cli(*words, "-q", "-n", 4)
    assert result.code in (1, 3) and "nope" in result.err  # 1: it may be on the Hub


def test_a_tokenizer_of_a_checkpoint_counts_long_texts(cli):
    check = ("data", "check", "scenes", "--text", "-n", 50, "--set", "length=8", "--tokenizer")
    for name in ("diffusion-lm-scenes", "mvtm-scenes"):
        result = cli(*check, name)
        assert result.code == 0 and "too_long: 0" not in result.out and "too_long" in result.out


def test_what_is_no_file_is_written_to_and_a_link_stays_one(cli, tmp_path):
    lines, (real, link, pipe) = tmp_path / "in.txt", (tmp_path / name for name in ("r", "l", "p"))
    lines.write_text("a small red circle\n")
    real.write_text("old")
    link.symlink_to(real)
    os.mkfifo(pipe)
    assert cli("decode", "mask-predict", lines, "--out", link).code == 0
    assert link.is_symlink() and real.read_text() not in ("", "old")
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_text)
        assert cli("decode", "mask-predict", lines, "--out", pipe).code == 0
        assert read.result(timeout=60) == real.read_text()
    assert pipe.is_fifo()


def test_pictures_and_arrays_come_through_pipes(cli, tmp_path):
    picture, pipe, noise = (tmp_path / name for name in ("in.png", "pipe", "x_T.npy"))
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(picture)
    np.save(noise, np.zeros((1, 3, 32, 32), np.float32))
    os.mkfifo(pipe)
    edit = ("decode", "ddpm", "--box", "0,0,8,8", "--steps", 1, "--resample", 1, "--image")
    draw = ("sample", "ddpm", "-n", 1, "--steps", 1, "--init-noise")
    for number, (command, file) in enumerate(((edit, picture), (draw, noise))):
        piped, plain = tmp_path / f"{number}.png", tmp_path / f"{number}-plain.png"
        with ThreadPoolExecutor() as pool:
            wrote = pool.submit(pipe.write_bytes, file.read_bytes())
            assert cli(*command, pipe, "--out", piped).code == 0
            wrote.result(timeout=60)
        assert cli(*command, file, "--out", plain).code == 0
        assert piped.read_bytes() == plain.read_bytes()


def test_bench_knows_of_the_checkpoint_of_the_environment(cli, monkeypatch):
    monkeypatch.setenv("GENTOOL_CHECKPOINT", "nowhere")
    for backend in ("ddpm", "mask-predict"):
        fails(cli("bench", backend, "--steps", 1), 3, "nowhere")


def test_a_rank_that_was_left_over_mutes_nothing(cli, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert "ddim" in cli("list", "samplers").out
    monkeypatch.setenv("RANK", "x")
    fails(cli("list", "nothing"), 2)


def test_pictures_of_an_earlier_command_are_told_of(cli, tiny_run, tmp_path):
    draw = ("sample", "ddpm", "-c", tiny_run, "--steps", 2, "--out", f"{tmp_path / 'drawn'}/")
    assert "also holds" not in cli(*draw, "-n", 4).err
    assert "also holds 2 pictures of an earlier command" in cli(*draw, "-n", 2).err
    assert "also holds" not in cli(*draw, "--index", 1).err


def test_words_that_a_translator_does_not_know_are_told(cli, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a small red circle\nxyzzy\n")))
    result = cli("decode", "mask-predict", "-")
    assert result.code == 0 and result.err.count("does not know") == 1
    assert "line 2 has words that this model does not know" in result.err
    many = io.BytesIO(b"xyzzy\n" * 9)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(many))
    told = cli("decode", "mask-predict", "-", "-q").err.splitlines()
    assert len(told) == 6 and told[-1].startswith("warning: 9 lines are not read")


def test_who_types_is_told_that_it_is_their_turn(cli, monkeypatch):
    typed = io.TextIOWrapper(io.BytesIO(b"a small red circle\n"))
    typed.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", typed)
    assert "Ctrl-D" in cli("decode", "mask-predict").err


def test_a_key_that_is_nearly_right_is_named_with_its_section(cli):
    result = cli("train", "ddpm", "--set", "train.batchsize=4", "--dry-run")
    assert result.code == 2 and "did you mean 'train.batch_size'?" in result.err
