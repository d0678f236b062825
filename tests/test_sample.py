"""`gentool sample ddpm`: where the pictures go, and that they are the same pictures every time."""

import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import states_of
from PIL import Image

from gentool.checkpoint.load import load_checkpoint
from gentool.resources import shipped
from gentool.sampling import sample_settings


@pytest.fixture
def sample(cli, tiny_run):
    """`sample("-n", 3, …)` samples from the tiny run."""

    def call(*arguments):
        return cli("sample", "ddpm", "--checkpoint", tiny_run, *arguments)

    return call


def test_a_grid(sample, tmp_path):
    out = tmp_path / "new/folder/grid.png"
    result = sample("-n", 7, "--out", out)
    assert (result.code, result.out) == (0, f"{out}\n")
    picture = Image.open(out)
    assert picture.mode == "RGB" and picture.size == (3 * 34 - 2, 3 * 34 - 2)
    assert [path.name for path in out.parent.iterdir()] == ["grid.png"]


def test_a_folder_has_a_picture_each_in_order(sample, tmp_path):
    result = sample("-n", 3, "--batch-size", 2, "--out", f"{tmp_path}/each/")
    files = sorted((tmp_path / "each").iterdir())
    assert result.code == 0 and len(files) == 3
    assert result.out.split() == [str(file) for file in files]
    assert all(Image.open(file).size == (32, 32) for file in files)
    array = tmp_path / "x.npy"
    sample("-n", 3, "--out", array)
    for file, image in zip(files, np.load(array), strict=True):
        pixels = np.asarray(Image.open(file), dtype=np.float32).transpose(2, 0, 1)
        assert np.abs(pixels / 127.5 - 1 - image).max() < 1 / 127


def test_an_array(sample, tmp_path):
    result = sample("-n", 3, "--out", tmp_path / "x.npy")
    array = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert result.out == f"{tmp_path / 'x.npy'}\n"
    assert array.dtype == np.float32 and array.shape == (3, 3, 32, 32)
    assert array.min() >= -1 and array.max() <= 1 and array.std() > 0.1


def test_standard_output_is_the_picture(sample, tmp_path):
    result = sample("-n", 4, "--out", "-")
    assert result.code == 0 and Image.open(io.BytesIO(result.stdout)).size == (66, 66)
    sample("-n", 4, "--out", tmp_path / "same.png")
    assert (tmp_path / "same.png").read_bytes() == result.stdout
    assert sample("--out", "-", "--json").code == 2


def test_without_out_a_new_file_here_is_named(sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [sample("-n", 1, "--seed", seed).out.strip() for seed in (0, 1, 1)]
    assert len(set(names)) == 3 and sorted(names) == sorted(p.name for p in tmp_path.iterdir())
    assert Path(names[1]).read_bytes() == Path(names[2]).read_bytes()


@pytest.mark.parametrize("name, files", [("x.png", 1), ("x.npy", 1), ("each/", 3)])
def test_json_has_a_record_for_each_picture(sample, tmp_path, name, files):
    records = sample("-n", 3, "--seed", 5, "--batch-size", 2, "--out", f"{tmp_path}/{name}",
                     "--json").records  # fmt: skip
    assert [record["index"] for record in records] == [0, 1, 2]
    assert all(record["seed"] == 5 and Path(record["path"]).is_file() for record in records)
    assert len({record["path"] for record in records}) == files


@pytest.mark.parametrize(
    "kind",
    [
        "--sampler ancestral",
        "--sampler ddim --eta 0.5",
        "--variance fixed_small",
        "--sampler dpm++ --spacing leading",
    ],
)
def test_pictures_depend_on_seed_and_number_alone(sample, tmp_path, kind):
    def draw(name, *arguments):
        out = tmp_path / f"{name}.npy"
        common = ("--seed", 3, "--precision", "fp32", "--steps", 20, *kind.split())
        assert sample(*common, "--out", out, *arguments).code == 0
        return out

    one, three, seven, again = (
        draw(name, "-n", 7, "--batch-size", size)
        for name, size in [("one", 1), ("three", 3), ("seven", 7), ("again", 7)]
    )
    assert seven.read_bytes() == again.read_bytes()
    for other in (one, three):
        assert np.abs(np.load(other) - np.load(seven)).max() <= 1e-3
    alone, few = np.load(draw("alone", "-n", 7, "--index", 5)), np.load(draw("few", "-n", 2))
    assert alone.shape == (1, 3, 32, 32)
    assert np.abs(alone[0] - np.load(seven)[5]).max() <= 1e-3
    assert np.abs(few - np.load(seven)[:2]).max() <= 1e-3
    other = np.load(draw("other", "-n", 7, "--seed", 4))
    assert all(np.abs(a - b).mean() > 0.05 for a in other for b in np.load(seven))


def test_the_seed_comes_from_the_environment_unless_given(sample, tmp_path, monkeypatch):
    def draw(name, *arguments):
        sample("-n", 1, "--out", tmp_path / name, *arguments)
        return (tmp_path / name).read_bytes()

    nine = draw("a.png", "--seed", 9)
    monkeypatch.setenv("GENTOOL_SEED", "9")
    assert draw("b.png") == nine and draw("c.png", "--seed", 0) != nine


def test_the_checkpoint_comes_from_the_environment_unless_given(
    cli, tiny_run, tmp_path, monkeypatch
):
    out = ("-n", 1, "--out", tmp_path / "x.png")
    monkeypatch.setenv("GENTOOL_CHECKPOINT", str(tiny_run))
    result = cli("sample", "ddpm", *out)
    assert result.code == 0 and str(tiny_run) in result.err
    assert cli("sample", "ddpm", "--checkpoint", tmp_path / "none", *out).code == 3


def test_the_checkpoint_is_never_the_newest_run(cli, tiny_run, tmp_path, monkeypatch):
    shutil.copytree(tiny_run, tmp_path / "runs/ddpm-scenes")
    monkeypatch.chdir(tmp_path)
    result = cli("sample", "ddpm", "-n", 1, "--steps", 1, "--out", "x.png")
    assert result.code == 0 and str(shipped("checkpoints")["ddpm-scenes"]) in result.err


def test_the_default_steps_are_the_checkpoints_and_noise_has_a_scale(sample, tmp_path):
    assert "steps 5" in sample("-n", 1, "--out", tmp_path / "x.png").err
    drawn = []
    for scale in (0, 0.5, 1):
        assert sample("-n", 2, "--noise-scale", scale, "--out", tmp_path / "x.npy").code == 0
        drawn.append(np.load(tmp_path / "x.npy"))
    assert sample("-n", 2, "--out", tmp_path / "x.npy").code == 0
    assert np.array_equal(drawn[2], np.load(tmp_path / "x.npy"))
    assert not np.allclose(drawn[0], drawn[1]) and not np.allclose(drawn[1], drawn[2])


@pytest.mark.parametrize("steps", [0, -1, 21, 5000, "many"])
def test_an_impossible_step_count_is_a_usage_error(sample, tmp_path, steps):
    for name in ("x.png", "new/x.npy", "new/each/"):
        result = sample("--steps", steps, "--out", f"{tmp_path}/{name}", "-q")
        assert result.code == 2 and result.out == "" and "steps" in result.err
        assert len(result.err.splitlines()) <= 2
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("option", ["--precision fp8", "--device abacus", "--eta -2", "--out x.jpg",
                                    "--noise-scale -1", "--noise-scale nan", "--sampler euler",
                                    "--spacing linspace", "--variance learned"])  # fmt: skip
def test_impossible_values_are_usage_errors(sample, tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    result = sample("-n", 1, *option.split())
    assert result.code == 2 and result.out == "", result.err
    assert not list(tmp_path.iterdir())


def test_a_failure_half_way_leaves_and_announces_no_file(sample, tmp_path, monkeypatch):
    from gentool.backends.ddpm.backend import Backend

    draw, calls = Backend.draw, []

    def failing(self, *arguments, **given):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return draw(self, *arguments, **given)

    monkeypatch.setattr(Backend, "draw", failing)
    for name in ("x.png", "x.npy"):
        calls.clear()
        result = sample("-n", 4, "--batch-size", 2, "--out", tmp_path / name, "--json")
        assert result.code == 6 and not list(tmp_path.iterdir())
        assert result.out == "", "a file is named that is not there"


@pytest.mark.skipif(sys.platform != "linux", reason="permissions as root differ")
def test_a_place_that_cannot_be_written_is_one_line(sample):
    result = sample("-n", 1, "--out", "/proc/nowhere/x.png", "-q")
    assert result.code == 1 and len(result.err.splitlines()) <= 2 and "bug" not in result.err


def test_sampling_changes_nothing_in_the_run(sample, tiny_run, tmp_path):
    before = {p: p.read_bytes() for p in tiny_run.rglob("*") if p.is_file()}
    sample("-n", 1, "--out", tmp_path / "x.png")
    assert before == {p: p.read_bytes() for p in tiny_run.rglob("*") if p.is_file()}
    assert states_of(tiny_run) == [20, 30, 40]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_checkpoint_can_be_sampled(cli, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for path in run.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    result = cli("sample", "ddpm", "-c", run, "-n", 1, "--out", tmp_path / "x.png")
    for path in [run, *run.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert result.code == 0


def test_the_noise_saved_for_one_sampler_is_not_that_of_another(tiny_run):
    loaded = load_checkpoint(tiny_run, "ddpm")
    saved = loaded.run_config.config["sample"]
    saved |= {"sampler": "dpm++", "eta": 4.0}
    assert sample_settings(loaded, {}).eta == sample_settings(loaded, {"sampler": "dpm++"}).eta == 4
    assert sample_settings(loaded, {"sampler": "ddim"}).eta == 0
    assert sample_settings(loaded, {"sampler": "ddim", "eta": 0.5}).eta == 0.5
