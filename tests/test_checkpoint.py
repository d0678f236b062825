"""Checkpoints: what is damaged, foreign or hostile is refused; a full disk loses nothing."""

import errno
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import states_of, weights_of
from safetensors.torch import load_file, save_file

from gentool.checkpoint import atomic
from gentool.checkpoint.atomic import write_file

PACKAGE = Path(__file__).parents[1] / "gentool"
PYTHON = sys.executable


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A copy of the trained run, to be changed."""
    return shutil.copytree(tiny_run, tmp_path / "copy")


@pytest.fixture
def refused(cli, tmp_path):
    """That `sample` and `inspect` both exit with a code, in one or two lines."""

    def check(checkpoint, code, *words):
        out = tmp_path / "never.png"
        for result in (
            cli("sample", "ddpm", "--checkpoint", checkpoint, "-n", 1, "--out", out),
            cli("inspect", checkpoint),
        ):
            assert result.code == code, result.err
            assert result.out == "" and "Traceback" not in result.err
            assert "bug" not in result.err
            assert 1 <= len(result.err.splitlines()) <= 2, result.err
            assert all(word in result.err for word in words), result.err
        assert not out.exists()

    return check


def change(path, **values):
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, **values}))


@pytest.mark.parametrize("part", ["header", "first", "middle", "last"])
def test_one_flipped_byte_in_the_weights_is_noticed(copy, refused, part):
    path = copy / "model.safetensors"
    data = bytearray(path.read_bytes())
    body = 8 + int.from_bytes(data[:8], "little")
    place = {"header": 20, "first": body, "middle": (body + len(data)) // 2, "last": -1}[part]
    data[place] ^= 1
    path.write_bytes(data)
    refused(copy, 4)


def test_truncated_weights_are_refused(copy, refused):
    path = copy / "model.safetensors"
    for size in (path.stat().st_size - 1, 100, 4, 0):
        os.truncate(path, size)
        refused(copy, 4)


def test_a_changed_model_section_is_noticed(copy, refused):
    tree = json.loads((copy / "config.json").read_text())["config"]
    tree["model"]["dropout"] = 0.5  # the same shapes, another model
    change(copy / "config.json", config=tree)
    refused(copy, 4, "model")


def test_weights_of_another_writer_are_refused(copy, refused):
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors, copy / "model.safetensors")
    refused(copy, 4)


class Touch:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "executed"


@pytest.fixture(params=["plain", "torch"])
def pickled(request, marker):
    """A file that runs code when it is unpickled."""
    if request.param == "plain":
        return pickle.dumps(Touch(marker))
    buffer = io.BytesIO()
    torch.save({"model": Touch(marker)}, buffer)
    return buffer.getvalue()


def test_the_hostile_pickle_works(marker):
    pickle.loads(pickle.dumps(Touch(marker))).close()
    assert marker.exists()


def test_a_pickle_is_refused_and_never_executed(pickled, marker, copy, tmp_path, refused, train):
    file = tmp_path / "model.pt"
    file.write_bytes(pickled)
    refused(file, 4, "model.pt")
    for name in ("model.safetensors", "config.json"):
        hostile = shutil.copytree(copy, tmp_path / f"hostile-{name}")
        (hostile / name).write_bytes(pickled)
        refused(hostile, 4, name)
    assert train("--init", file).code == 4
    assert train("--init", tmp_path / "hostile-model.safetensors").code == 4
    for name in ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"):
        for state in (copy / "state").iterdir():
            (state / name).write_bytes(pickled)
        assert train("--resume", "latest", out=copy).code == 4
    assert not marker.exists()


def test_the_package_has_no_way_to_load_a_pickle():
    ways = r"torch\.load\(|^\s*(import|from) +(c?pickle|dill|joblib|shelve)|allow_pickle ?= ?True"
    for path in PACKAGE.rglob("*.py"):
        assert not re.search(ways, path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "."])
def test_what_is_missing_is_not_found(copy, refused, name):
    if name == ".":
        return refused(copy / "nothing-here", 3)
    (copy / name).unlink()
    refused(copy, 3, name if name == "model.safetensors" else "no checkpoint")


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5, [1]])
def test_another_format_version_is_refused(copy, refused, version):
    change(copy / "config.json", format_version=version)
    refused(copy, 4, "format")


HOSTILE = {
    "empty": b"",
    "list": b"[]",
    "number": b"1",
    "text": b'"config"',
    "not JSON": b"{",
    "not UTF-8": b'{"a": "\xff"}',
    "deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep list": b"[" * 100_000 + b"]" * 100_000,
    "huge": b'{"a": "' + b"x" * (17 << 20) + b'"}',
    "unknown key": b'{"format_version": 1, "surprise": 1}',
    "empty object": b"{}",
    "huge number": b'{"format_version": 1' + b"0" * 5000 + b"}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_configuration_is_refused(copy, refused, name):
    (copy / "config.json").write_bytes(HOSTILE[name])
    refused(copy, 4, "config.json")


def nested(depth):
    tree = {}
    for _ in range(depth):
        tree = {"a": tree}
    return tree


WRONG = {
    "no sections": {"config": {}},
    "config is a list": {"config": []},
    "config is null": {"config": None},
    "model is a text": {"config": {"model": "large"}},
    "deep model": {"config": {"model": nested(900)}},
    "backend is a list": {"backend": ["ddpm"]},
    "backend is unknown": {"backend": "nonesuch"},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_configuration_of_wrong_types_is_refused(cli, copy, name):
    change(copy / "config.json", **WRONG[name])
    result = cli("sample", "ddpm", "--checkpoint", copy, "-n", 1, "--out", copy / "x.png")
    assert result.code == 4 and "Traceback" not in result.err, result.err
    assert len(result.err.splitlines()) <= 2


def test_a_configuration_without_a_sample_section_is_refused(cli, copy):
    tree = json.loads((copy / "config.json").read_text())["config"]
    del tree["sample"]
    change(copy / "config.json", config=tree)
    result = cli("sample", "ddpm", "--checkpoint", copy, "-n", 1, "--out", copy / "x.png")
    assert result.code == 4 and "sample" in result.err, result.err


def test_a_checkpoint_of_another_backend_is_refused(cli, copy):
    change(copy / "config.json", backend="mvtm")
    result = cli("sample", "ddpm", "--checkpoint", copy, "-n", 1)
    assert result.code == 4 and "mvtm" in result.err


@pytest.mark.parametrize("kind", ["no tensors", "step is a text", "foreign names"])
def test_a_state_that_its_own_manifest_confirms_may_still_be_wrong(train, copy, kind):
    """The manifest can be damaged too: an error of one line, or the state before."""
    for place in (copy / "state").iterdir():
        manifest = json.loads((place / "manifest.json").read_text())
        if kind == "no tensors":
            manifest["sha256"] = {}
        elif kind == "step is a text":
            manifest["step"] = "forty"
        else:
            (place / "model.safetensors").unlink()
            del manifest["sha256"]["model.safetensors"]
        (place / "manifest.json").write_text(json.dumps(manifest))
    result = train("--resume", "latest", out=copy)
    assert result.code == 4 and "bug" not in result.err, result.err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", place], capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk, leave=0):
    """Leave no room but `leave` bytes."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 14, 512):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
        file.truncate(file.tell() - leave)


def test_a_full_disk_stops_training_and_the_state_before_resumes(train, tiny_run, small_disk):
    run = small_disk / "run"
    keep_all = ("--set", "train.keep_last=100")
    result = train(*keep_all, "--set", "train.save_every=1", "--quiet", out=run)
    assert result.code == 1 and result.out == "", result.err
    assert 1 <= len(result.err.splitlines()) <= 2 and "No space" in result.err
    assert "bug" not in result.err and "Traceback" not in result.err
    assert states_of(run), "no state is left"
    assert not [path for path in run.rglob("*") if ".tmp" in path.name]
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    assert train("--resume", "latest", out=run).code == 0
    assert weights_of(run) == weights_of(tiny_run)


def test_no_room_for_a_new_run_is_one_line_and_leaves_nothing(train, small_disk):
    fill(small_disk)
    result = train("--quiet", out=small_disk / "run")
    assert result.code == 1 and "No space" in result.err
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


@pytest.mark.parametrize("name, leave", [("x.png", 0), ("x.npy", 8192), ("many/", 0)])
def test_samples_on_a_full_disk_are_one_line(tiny_run, small_disk, name, leave):
    """In a process of its own: a memory map on a full disk kills it with SIGBUS."""
    fill(small_disk, leave)
    out = f"{small_disk}/{name}"
    done = subprocess.run(
        [PYTHON, "-m", "gentool", "sample", "ddpm", "-q", "-c", tiny_run, "--out", out],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "No space" in done.stderr, done
    assert len(done.stderr.splitlines()) <= 2
    assert not [path for path in small_disk.rglob("*") if path.is_file() and path.name != "ballast"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    def half(beside):
        beside.write_text("ne")
        fail()

    with pytest.raises(OSError):
        write_file(path, half)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(atomic.os, name, fail)
            with pytest.raises(OSError):
                write_file(path, b"new")
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    write_file(path, b"new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]
    (tmp_path / ".file.tmp").mkdir()  # it cannot be written: told by the name that the user gave
    with pytest.raises(IsADirectoryError) as told:
        write_file(path, b"newer")
    assert told.value.filename == str(path) and path.read_text() == "new"


def test_inspect_describes_a_checkpoint(cli, tiny_run):
    result = cli("inspect", tiny_run)
    assert result.code == 0 and result.err == ""
    for fact in ("ddpm", "tiny", "17408", "scenes", "[20, 30, 40]"):
        assert fact in result.out
    [record] = cli("inspect", tiny_run, "--json").records
    assert record["backend"] == "ddpm" and record["step"] == 40
    assert record["states"] == [20, 30, 40] and record["parameters"] == 17408
    assert record["config"]["model"]["channels"] == 8
    assert record["metrics"]["val_loss"] > 0


def test_the_first_three_files_are_enough_to_sample(cli, tiny_run, tmp_path):
    slim = tmp_path / "slim"
    slim.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_run / name, slim)
    pictures = []
    for checkpoint in (tiny_run, slim):
        out = tmp_path / f"{checkpoint.name}.png"
        assert cli("sample", "ddpm", "-c", checkpoint, "-n", 2, "--out", out).code == 0
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]


def test_the_same_run_twice_gives_the_same_files(train, tiny_run, tmp_path):
    assert train().code == 0
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "run" / name).read_bytes() == (tiny_run / name).read_bytes(), name
