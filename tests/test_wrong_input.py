"""Every wrong input that the contract names: its exit code, and one or two lines that help."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import fails
from PIL import Image

from gentool.cli.failures import report
from gentool.data.scenes import Scenes
from gentool.device import pick_device
from gentool.errors import MachineError, UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of `datasets` that is the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def png(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Eight pictures in two classes."""
    folder = tmp_path / "photos"
    for i in range(8):
        path = folder / ("cats", "dogs")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return folder


@pytest.fixture
def truncated(photos):
    """The pictures, one of them cut short."""
    path = photos / "dogs/3.png"
    path.write_bytes(path.read_bytes()[:200])
    return photos


@pytest.fixture
def wrong(train, tmp_path):
    """That training quietly fails with a code, leaving no run."""

    def check(code, words, *arguments):
        fails(train("--quiet", *arguments), code, *words)
        assert not (tmp_path / "run").exists()

    return check


def test_unknown_backend(cli):
    for verb in ("train", "sample", "decode", "eval"):
        fails(cli(verb, "ddmp"), 2, "ddmp")


def test_unknown_key_in_a_recipe(cli, recipe, tmp_path):
    text = recipe.read_text()
    for name, changed, word in [
        ("key", text.replace("blocks = 1", "block = 1"), "blocks"),
        ("section", text.replace("[diffusion]", "[difusion]"), "diffusion"),
        ("backend", text.replace('"ddpm"', '"ddmp"'), "backend"),
        ("no-backend", text.replace('backend = "ddpm"', ""), "backend"),
    ]:
        path = tmp_path / f"{name}.toml"
        path.write_text(changed)
        command = ("train", "ddpm", "--recipe", path, "--out", tmp_path / "run")
        result = cli(*command)
        if name == "backend":
            word = "backend" if "backend" in result.err else "not for ddpm"
        fails(result, 2, word)
    broken = tmp_path / "broken.toml"
    broken.write_text("backend = ")
    fails(cli("train", "ddpm", "--recipe", broken), 4, "broken.toml")
    broken.write_bytes(b"\xff\xfe")
    fails(cli("train", "ddpm", "--recipe", broken), 4, "broken.toml")
    fails(cli("train", "ddpm", "--recipe", "ddpm-scene"), 3, "ddpm-scenes")
    assert not (tmp_path / "run").exists()


def test_missing_data(wrong, cli, tmp_path):
    for name in ("nothing-here", "nothing.parquet", "no*.parquet"):
        wrong(3, [name], "--data", tmp_path / name)
        fails(cli("data", "check", tmp_path / name), 3, name)
        fails(cli("data", "show", tmp_path / name, "--out", tmp_path / "x.png"), 3, name)


def test_data_of_a_kind_that_cannot_be_read(wrong, tmp_path):
    (tmp_path / "words.txt").write_text("a b c")
    wrong(2, ["words.txt"], "--data", tmp_path / "words.txt")
    wrong(2, ["hf:a:b:c:d"], "--data", "hf:a:b:c:d")


def test_an_empty_folder(wrong, cli, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    wrong(4, ["empty"], "--data", empty)
    fails(cli("data", "check", empty), 4, "empty")


def test_a_truncated_picture_stops_training_and_is_named(train, truncated):
    result = train("--quiet", "--data", truncated, "--set", "train.validate_every=0")
    fails(result, 4, "dogs/3.png")


def test_a_parquet_without_images(wrong, cli, tmp_path):
    path = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), path)
    wrong(4, ["numbers.parquet"], "--data", path)
    fails(cli("data", "check", path), 4, "numbers.parquet")
    path.write_bytes(path.read_bytes()[:50])
    wrong(4, ["numbers.parquet"], "--data", path)


def test_a_pickle_as_checkpoint(cli, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1)}, path)
    for verb in ("sample", "decode", "eval"):
        fails(cli(verb, "ddpm", "--checkpoint", path), 4, "model.pt")
    fails(cli("inspect", path), 4, "model.pt")


def test_steps_below_one_and_above_the_chain(cli, tiny_run):
    for steps in ("0", "5000"):
        for verb in ("sample", "eval"):
            more = ["--metric", "scenes", "-n", "1"] if verb == "eval" else []
            command = (verb, "ddpm", "--quiet", "--checkpoint", tiny_run, "--steps", steps)
            fails(cli(*command, *more), 2, "steps", steps)


def test_nothing_to_resume_and_a_folder_in_use(train, cli, recipe, tiny_run, tmp_path):
    fails(train("--resume", "latest"), 3, "resume")
    fails(train("--resume", tmp_path / "no"), 3, "no")
    command = ("train", "ddpm", "--recipe", recipe, "--out", tiny_run)
    fails(cli(*command), 2, str(tiny_run))


def test_no_checkpoint(cli, tmp_path, monkeypatch):
    fails(cli("sample", "ddpm", "--checkpoint", tmp_path / "none"), 3, "none")
    monkeypatch.setattr("gentool.checkpoint.load.shipped", lambda kind: {})
    monkeypatch.chdir(tmp_path)
    for verb in ("sample", "decode", "eval"):
        fails(cli(verb, "ddpm"), 3, "gentool train ddpm")


def test_data_check_accepts_what_can_be_read(cli, photos):
    result = cli("data", "check", photos, "-q")
    assert result.code == 0 and result.err == ""
    assert "36x40" in result.out and "cats" in result.out
    [summary] = cli("data", "check", photos, "--json").records
    assert summary["records"] == 8 and summary["bad"] == 0
    assert summary["labels"] == {"cats": 4, "dogs": 4}
    assert cli("data", "check", "scenes", "-n", 20, "--json").records[-1]["records"] == 20


def test_data_check_names_what_cannot_be_read(cli, truncated):
    result = cli("data", "check", truncated, "-q")
    assert result.code == 4 and "dogs/3.png" in result.out
    assert 1 <= len(result.err.splitlines()) <= 2 and "1 of 8" in result.err
    bad, summary = cli("data", "check", truncated, "--json").records
    assert bad["bad"] == "dogs/3.png" and summary["bad"] == 1


def test_data_show_draws_a_sheet_and_tells_the_captions(cli, photos, truncated, tmp_path):
    sheet = tmp_path / "sheet.png"
    result = cli("data", "show", "scenes", "-n", 5, "--out", sheet)
    lines = result.out.splitlines()
    assert result.code == 0 and len(lines) == 5 and lines[0].startswith("0  ")
    assert any(shape in lines[0] for shape in ("circle", "square", "triangle", "cross"))
    assert Image.open(sheet).width > 5 * 32
    result = cli("data", "show", photos, "-n", 3, "--start", 1, "--out", sheet, "-q")
    assert result.code == 0
    fails(cli("data", "show", truncated, "--out", sheet), 4, "3.png")
    fails(cli("data", "show", photos, "--start", 8, "--out", sheet), 2, "8")
    fails(cli("data", "show", "scenes", "--out", tmp_path / "x.gif"), 2, "x.gif")


def test_training_on_pictures_can_skip_a_bad_one(train, truncated, tmp_path):
    skip = ("--on-error", "skip", "--set", "train.validate_every=0")
    result = train("--data", truncated, *skip, "--steps", 10)
    assert result.code == 0 and "dogs/3.png" in result.err
    moved = truncated.rename(tmp_path / "moved")  # the same data, elsewhere
    result = train("--data", moved, *skip, "--resume", "latest", "--steps", 11)
    assert result.code == 0 and "resuming" in result.err
    assert train(*skip, "--resume", "latest", "--steps", 12).code == 0, "known from now on"
    result = train("--data", "scenes", "--resume", "latest", "--steps", 13)
    assert result.code == 2 and "was started on other data" in result.err
    (photo := moved / "cats/0.png").unlink()
    result = train("--data", moved, *skip, "--resume", "latest", "--steps", 13)
    assert result.code == 4 and "changed" in result.err, photo


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("caption.txt", ("no such file", "did you mean", "captions.txt?")),
        ("elsewhere/captions.txt", ("no such file", "there is no folder", "elsewhere")),
        ("photos", ("is a folder", "give a file in it")),
        ("q", ("no such file: ",)),
    ],
)
def test_a_file_that_is_not_there(cli, tmp_path, photos, name, words):
    (tmp_path / "captions.txt").write_text("a small red circle in the center\n")
    fails(cli("decode", "mask-predict", "-q", tmp_path / name), 3, *words)
    box = ("--box", "0,0,2,2", "--out", tmp_path / "edited.png")
    fails(cli("decode", "ddpm", "-q", "--image", tmp_path / name, *box), 3, *words)
    assert not (tmp_path / "edited.png").exists()


# Lines and streams


def test_a_line_that_is_not_utf8_costs_its_own_picture_alone(cli, tmp_path):
    (tmp_path / "lines").write_bytes(b"\n\xff\xfe bad\na small red circle in the center\n")
    out = tmp_path / "drawn.npy"
    command = ("decode", "ddpm", tmp_path / "lines", "--steps", 2, "--out", out)
    result = cli(*command, "--json")
    assert result.code == 4 and "line 2: not UTF-8" in result.err
    assert [record["skipped"] for record in result.records] == [False, True, False]
    pictures = np.load(out)
    assert (pictures[1] == 1).all() and not (pictures[0] == 1).all()
    out.unlink()
    result = cli(*command, "--on-error", "stop")
    assert result.code == 4 and "line 2: not UTF-8" in result.err and not out.exists()


def test_a_caption_of_no_scene_counts_as_not_shown(cli, tmp_path):
    said = ["a small red circle in the center", "", "no such thing"]
    (tmp_path / "said.txt").write_text("".join(f"{line}\n" for line in said))
    np.save(tmp_path / "x.npy", np.full((3, 3, 32, 32), -0.9, np.float32))
    result = cli(
        "eval", "scenes", "--images", tmp_path / "x.npy", "--captions", tmp_path / "said.txt"
    )
    assert result.code == 4 and result.out.count("wrong") == 3
    assert "line 2, 3 describes no scene" in result.err


def test_a_long_caption_is_not_repeated_whole(cli, tmp_path):
    (tmp_path / "long").write_text("a small red circle " * 900)
    command = ("decode", "ddpm", tmp_path / "long", "--steps", 1, "--out", tmp_path / "x.npy")
    result = cli(*command)
    assert result.code == 0 and "too long and cut" in result.err and len(result.err) < 900


def test_a_pipe_is_a_file(cli, tmp_path):
    read, write = os.pipe()
    os.write(write, b"a small red circle in the center\n")
    os.close(write)
    result = cli("decode", "mask-predict", f"/dev/fd/{read}", "-q")
    os.close(read)
    assert result.code == 0 and len(result.out.splitlines()) == 1


def test_an_edit_takes_the_captions_that_wait(cli, tmp_path, monkeypatch):
    """And waits for none: an open pipe in which nothing is may be anyone's."""
    Image.fromarray(Scenes("test")[0].image).save(tmp_path / "in.png")
    read, write = os.pipe()
    os.write(write, b"a small red circle in the center\n")
    monkeypatch.setattr("sys.stdin", os.fdopen(read))
    edit = ("decode", "mvtm", "--image", tmp_path / "in.png", "--box", "8,8,16,16", "--steps", 8)
    os.close(write)
    told = cli(*edit, "--out", tmp_path / "told.npy", "--json")
    assert json.loads(told.out)["caption"] == "a small red circle in the center"
    (tmp_path / "captions.txt").write_text("a large blue square in the center\n" * 2)
    with open(tmp_path / "captions.txt") as file:
        monkeypatch.setattr("sys.stdin", file)
        assert len(cli(*edit, "--out", tmp_path / "two.npy", "--json").out.splitlines()) == 2
    read, write = os.pipe()
    monkeypatch.setattr("sys.stdin", os.fdopen(read))
    alone = cli(*edit, "--out", tmp_path / "free.npy", "--json")
    os.close(write)
    assert "nothing waits on standard input" in alone.err
    fails(cli(*edit, "-", "--mask", "-", "--out", tmp_path / "y.npy"), 2)
    assert json.loads(alone.out)["caption"] == ""
    assert not np.array_equal(np.load(tmp_path / "told.npy"), np.load(tmp_path / "free.npy"))


@pytest.mark.parametrize(
    ("closed", "code", "words"),
    [("<&-", 4, "no lines"), (">&-", 1, "standard output is closed"), ("2>&-", 0, "")],
)
def test_closed_streams(tmp_path, closed, code, words):
    argument = "" if closed == "<&-" else tmp_path / "in.txt"
    (tmp_path / "in.txt").write_text("\n")
    backend = "ddpm --out x.png" if closed == "<&-" else "mask-predict"
    line = f"{sys.executable} -m gentool decode {backend} {argument} {closed}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert "bug" not in done.stderr and "Traceback" not in done.stderr
    assert "Exception" not in done.stderr and done.stdout == ("\n" if closed == "2>&-" else "")


# Runs and checkpoints


def test_a_run_does_not_end_before_where_it_is(train, tiny_run, tmp_path):
    assert train("--steps", 12, "--quiet").code == 0
    before = (tmp_path / "run" / "config.json").read_bytes()
    fails(train("--resume", "latest", "--steps", 3, "--quiet"), 2, "is at step 12", "--steps N")
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_garbled_log_does_not_stop_a_run(train, tmp_path):
    assert train("--steps", 10, "--quiet").code == 0
    with (tmp_path / "run" / "log.jsonl").open("ab") as file:
        file.write(b"\xff\x00\xfe{ garbage")
    assert train("--resume", "latest", "--steps", 12, "--quiet").code == 0


def test_what_may_not_be_read_is_no_bug(cli, tiny_run, monkeypatch):
    weights, opened = tiny_run / "model.safetensors", Path.open

    def refuse(path, *arguments, **more):
        if path == weights:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != str(weights))
    result = cli("sample", "ddpm", "-q", "-c", tiny_run)
    fails(result, 1, "Permission denied", f"chmod +r {weights}")


def test_options_are_called_as_they_are_typed(cli):
    fails(cli("sample", "ddpm", "-q", "--guidance-scale", "inf"), 2, "--guidance-scale must be")
    fails(cli("sample", "ddpm", "-q", "--checkpoint", ""), 2, "--checkpoint is empty")
    fails(cli("sample", "ddpm", "-q", "--out", ""), 2, "--out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("command", ["list recipes", "decode mask-predict in.txt --length-beam 1"])
def test_standard_output_on_a_full_disk_is_one_line(tmp_path, command):
    (tmp_path / "in.txt").write_text("a small red circle\n")
    line = f"{sys.executable} -m gentool {command} -q > /dev/full"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "No space left" in done.stderr, done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= 2


def test_a_gpu_that_fills_up_is_out_of_memory(monkeypatch, capsys):
    for told in ("CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"):
        assert report(RuntimeError(told)) == 6
        assert capsys.readouterr().err.startswith("error: out of memory\n")


def test_a_launcher_that_was_told_to_use_the_cpu_is_obeyed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for value, device in {"true": "cpu", "False": "cuda", "": "cuda"}.items():
        monkeypatch.setenv("ACCELERATE_USE_CPU", value)
        assert pick_device("auto").type == device


def test_a_device_that_is_not_there_and_one_that_is_full(monkeypatch):
    for name in ("cuda:7", "gpu"):
        with pytest.raises(UsageError, match=f"no device '{name}' here"):
            pick_device(name)

    def full(*size, device):
        raise RuntimeError("CUDA error: out of memory\nand more")

    monkeypatch.setattr(torch, "empty", full)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(MachineError, match="'cuda' cannot be used: CUDA error: out of memory"):
        pick_device("cuda")
    with pytest.raises(UsageError, match="no device"):
        pick_device("cuda:1")
