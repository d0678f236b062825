"""`gentool sample ddpm --init-noise x_T.npy`: pictures from given noise; files without any."""

import numpy as np
import pytest
from conftest import Cli

from gentool.rng import BatchRng

SHAPE = (3, 32, 32)


@pytest.fixture
def sample(cli: Cli, tiny_run, tmp_path):
    """`sample(…)` gives the array that is drawn, or the failed command."""

    def call(*arguments):
        out = tmp_path / "out.npy"
        result = cli("sample", "ddpm", "-c", tiny_run, "-q", "--out", out, *arguments)
        return np.load(out) if result.code == 0 else result

    return call


@pytest.fixture
def noise(tmp_path):
    """The noise that samples 0 to 4 of seed 3 start from, as a file."""
    path = tmp_path / "x_T.npy"
    np.save(path, BatchRng.for_samples(3, range(5)).normal(*SHAPE).numpy())
    return path


@pytest.mark.parametrize(
    "kind", ["ancestral", "ddim", "ddim --eta 0.5", "dpm++", "ancestral --variance fixed_small"]
)
def test_the_noise_of_a_seed_gives_the_pictures_of_that_seed(sample, noise, kind):
    options = ("--seed", 3, "--sampler", *kind.split())
    given = sample("--init-noise", noise, *options)
    assert given.shape == (5, *SHAPE) and np.array_equal(given, sample("-n", 5, *options))


def test_the_noise_decides_the_picture_and_the_seed_what_is_added(sample, noise, tmp_path):
    ddim = ("--init-noise", noise, "--sampler", "ddim")
    given = sample(*ddim, "--seed", 3)
    assert np.array_equal(given, sample(*ddim, "--seed", 8))
    assert np.abs(given - sample("--sampler", "ddim", "-n", 5, "--seed", 8)).max() > 0.1
    ancestral = ("--init-noise", noise)
    assert np.abs(sample(*ancestral, "--seed", 3) - sample(*ancestral, "--seed", 8)).max() > 1e-3
    wide = tmp_path / "wide.npy"
    np.save(wide, np.asfortranarray(np.load(noise).astype(np.float64)))
    assert np.array_equal(sample("--init-noise", wide, "--sampler", "ddim"), given)


def test_some_of_the_noise(sample, noise):
    ddim = ("--init-noise", noise, "--sampler", "ddim", "--precision", "fp32")
    whole = sample(*ddim)
    np.testing.assert_allclose(sample(*ddim, "-b", 2), whole, atol=1e-3)
    np.testing.assert_allclose(sample(*ddim, "-n", 2), whole[:2], atol=1e-3)
    np.testing.assert_allclose(sample(*ddim, "--index", 3), whole[3:4], atol=1e-3)
    for more in (["-n", 6], ["--index", 5]):
        result = sample(*ddim, *more)
        assert result.code == 2 and "holds 5 samples, 6 are asked for" in result.err


def test_each_class_has_its_share_of_the_noise(cli, class_run, tmp_path):
    noise, out = tmp_path / "x_T.npy", tmp_path / "out.npy"
    np.save(noise, BatchRng.for_samples(0, range(4)).normal(3, 8, 8).numpy())
    command = ("sample", "ddpm", "-c", class_run, "--class", "ant", "--class", "cat", "--json")
    given = cli(*command, "--init-noise", noise, "--out", out)
    assert [record["class"] for record in given.records] == ["ant", "ant", "cat", "cat"]
    drawn = np.load(out)
    cli(*command, "-n", 2, "--out", out)
    assert np.array_equal(np.load(out), drawn)


def write(path, kind):
    good = np.zeros((2, *SHAPE), np.float32)
    if kind == "pickled":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "text":
        path.write_text("not an array")
    elif kind == "zip":
        path.write_bytes(b"PK\x03\x04 and no more")
    elif kind == "several":
        with path.open("wb") as file:
            np.savez(file, a=good)
    elif kind == "cut":
        np.save(path, good)
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "empty file":
        path.write_bytes(b"")
    else:
        arrays = {
            "one": good[0],
            "a number": np.float32(1),
            "none": good[:0],
            "small": good[:, :, :16],
            "last": good.transpose(0, 2, 3, 1),
            "integers": good.astype(np.int64),
            "complex": good.astype(np.complex64),
            "nan": good * np.nan,
            "infinite": np.where(good == 0, np.inf, good),
            "too large": good.astype(np.float64) + 1e300,
        }
        np.save(path, arrays[kind])


@pytest.mark.parametrize(
    "kind, word",
    [
        ("pickled", "not a .npy array"),
        ("text", "not a .npy array"),
        ("zip", "not a .npy array"),
        ("several", "not a .npy array"),
        ("cut", "not a .npy array"),
        ("empty file", "not a .npy array"),
        ("one", "[3, 32, 32], this model starts from ['N', 3, 32, 32]"),
        ("a number", "this model starts from"),
        ("none", "[0, 3, 32, 32]"),
        ("small", "[2, 3, 16, 32]"),
        ("last", "[2, 32, 32, 3]"),
        ("integers", "floating-point"),
        ("complex", "floating-point"),
        ("nan", "not finite"),
        ("infinite", "not finite"),
        ("too large", "not finite"),
    ],
)
def test_files_that_hold_no_noise(sample, tmp_path, kind, word):
    path = tmp_path / "x_T.npy"
    write(path, kind)
    result = sample("--init-noise", path)
    assert result.code == 4 and str(path) in result.err and word in result.err, result.err
    assert result.out == "" and len(result.err.splitlines()) <= 2 and "bug" not in result.err
    assert not (tmp_path / "out.npy").exists()


def test_noise_that_is_not_there(sample, tmp_path):
    for path in (tmp_path / "none.npy", tmp_path):
        result = sample("--init-noise", path)
        assert result.code == 3 and str(path) in result.err and result.out == ""
