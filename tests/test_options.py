"""Options that would do nothing, or that were given nothing, are told of; so is the environment."""

import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_wrong_input import fails


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
        (("sample", "ddpm", "-n", "5", "--index", "2"), "without --num"),
        (("sample", "diffusion-lm", "-n", "5", "--index", "2"), "without --num"),
        (("decode", "mask-predict", "--gold-length", "-"), "standard input"),
        (("sample", "ddpm", "--sampler", "ancestral", "--eta", "0"), "--sampler ancestral"),
        (("sample", "ddpm", "--guidance-from", "0.1"), "--guidance-scale 1.0"),
        (("sample", "mvtm", "--choice-temperature", "2"), "--order undecided"),
        (("sample", "diffusion-lm", "--given", "noised"), "--length 0"),
        (("eval", "mvtm", "--guidance-schedule", "linear"), "--guidance-scale 1.0"),
        (("eval", "scenes", "--images", ".", "--gate", "foo"), "--gate"),
        (("eval", "images", ".", "--ref", ".", "--features", "x", "--gate", "foo"), "--gate"),
        (("tokenizer", "train", "--kind", "foo", "--data", "scenes", "-o", "x"), "vq"),
        (("demo", "--out", __file__), "in use"),
        (("sample", "ddpm", "--out", "a.png", "--trace", "./a.png"), "--out and --trace both name"),
        (("sample", "diffusion-lm", "--out", "a.jsonl", "--trace", "a.jsonl"), "both name"),
        (("decode", "mvtm", "--image", "x.png"), "--strength X"),
        (("decode", "mvtm", "--image", "x.png", "--strength", "1.5"), "strength"),
    ],
)
def test_what_would_do_nothing_is_refused(cli, words, told):
    fails(cli(*words), 2, told)


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


def test_a_key_that_is_nearly_right_is_named_with_its_section(cli):
    result = cli("train", "ddpm", "--set", "train.batchsize=4", "--dry-run")
    assert result.code == 2 and "did you mean 'train.batch_size'?" in result.err
