"""FID and KID: the library's arithmetic beside our own, extractors, controls and wrong inputs."""

import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from gentool.backends.ddpm.backend import Backend
from gentool.errors import BadCheckpointError
from gentool.evaluate import distances, request
from gentool.evaluate.extractors import Extractor, load_extractor
from gentool.rng import torch_seed

pytest.importorskip("torchmetrics")

RECIPE = """\
backend = "features"
[data]
spec = ["{folder}"]
image_size = 8
[model]
classes = 3
channels = 8
levels = 2
[train]
steps = 60
batch_size = 16
learning_rate = 0.01
warmup_steps = 0
validate_every = 60
sample_every = 0
"""
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of our own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with a folder each of three classes, sixty small pictures in each."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, brightness in (("ant", 40), ("bee", 200), ("cat", 120)):
        (folder / name).mkdir()
        for i in range(60):
            pixels = rng.normal(brightness, 20, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def features(pictures, tmp_path_factory):
    """A classifier of the pictures."""
    from gentool.cli.main import run

    folder = tmp_path_factory.mktemp("features")
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.format(folder=pictures))
    out = folder / "features-tiny"
    assert run(["train", "features", "--recipe", str(recipe), "--out", str(out), "-q"]) == 0
    return out


def two_sets(n=300, D=6):
    rng = np.random.default_rng(1)
    real = rng.normal(size=(n, D)) @ rng.normal(size=(D, D))
    fake = rng.normal(size=(n - 20, D)) @ rng.normal(size=(D, D)) + rng.normal(size=D)
    return real, fake


def test_fid_by_another_way():
    real, fake = two_sets()
    S_1, S_2 = np.cov(real.T), np.cov(fake.T)
    # The trace of the root of a product, by the root of one factor.
    values, vectors = np.linalg.eigh(S_1)
    root = vectors @ np.diag(values**0.5) @ vectors.T
    middle = np.linalg.eigvalsh(root @ S_2 @ root).clip(min=0)
    mean = ((real.mean(0) - fake.mean(0)) ** 2).sum()
    wanted = mean + np.trace(S_1) + np.trace(S_2) - 2 * np.sqrt(middle).sum()
    found = distances.fid(torch.tensor(real), torch.tensor(fake))
    assert found.value == pytest.approx(wanted, rel=1e-3) and found.deviation is None
    assert distances.fid(torch.tensor(real), torch.tensor(real)).value == pytest.approx(0, abs=1e-3)


def test_kid_by_another_way(monkeypatch):
    monkeypatch.setattr(distances, "SUBSETS", 5)
    real, fake = two_sets()
    m = min(len(real), len(fake)) // 2

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    values = []
    with torch_seed("kid", 7):
        for _ in range(5):
            x = real[torch.randperm(len(real))[:m].numpy()]
            y = fake[torch.randperm(len(fake))[:m].numpy()]
            off = ~np.eye(m, dtype=bool)
            own = (kernel(x, x)[off].sum() + kernel(y, y)[off].sum()) / (m * (m - 1))
            values.append(own - 2 * kernel(x, y).mean())
    found = distances.kid(torch.tensor(real), torch.tensor(fake), seed=7)
    assert found.value == pytest.approx(np.mean(values), rel=1e-3)
    assert found.deviation == pytest.approx(np.std(values), rel=1e-3)
    same = distances.kid(torch.tensor(real), torch.tensor(real[::-1].copy()), seed=7)
    assert abs(same.value) < 2 * same.deviation < 0.3 * found.value


def test_the_classifier_learns_and_says_nothing_of_sampling(cli, features):
    [facts] = cli("inspect", features, "--json").records
    assert facts["backend"] == "features" and facts["metrics"]["val_loss"] < 0.5 < np.log(3)
    assert "gentool sample" not in (features / "README.md").read_text()
    extractor = load_extractor(str(features), CPU)
    assert extractor.name == "features-tiny" and extractor.size == 8
    assert extractor.features(torch.zeros(2, 3, 20, 20)).shape == (2, 16)


def figures(result):
    assert result.code == 0, result.err
    return {record["metric"]: record["value"] for record in result.records}


def test_real_pictures_are_near_real_ones_and_noise_is_not(cli, features, pictures, tmp_path):
    paths = sorted(pictures.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(np.float32)
    array = pixels.transpose(0, 3, 1, 2) / 127.5 - 1
    noise = np.random.default_rng(0).uniform(-1, 1, array.shape).astype(np.float32)
    for name, values in (("a", array[::2]), ("b", array[1::2]), ("noise", noise)):
        np.save(tmp_path / f"{name}.npy", values)
    found = {}
    for name in ("b", "noise"):
        found[name] = figures(cli(
            "eval", "images", tmp_path / f"{name}.npy", "--ref", tmp_path / "a.npy", "--json",
            "--features", features, "--metric", "kid", "--metric", "fid",
        ))  # fmt: skip
        assert set(found[name]) == {
            "kid[features-tiny]", "kid_deviation[features-tiny]", "fid[features-tiny]"
        }  # fmt: skip
    for metric in ("kid[features-tiny]", "fid[features-tiny]"):
        assert found["noise"][metric] > 10 * abs(found["b"][metric])
    # A folder is scored as the array of its pictures is.
    command = ("--features", features, "--json")
    (tmp_path / "all.npy").unlink(missing_ok=True)
    np.save(tmp_path / "all.npy", array[:60])
    one = cli("eval", "images", pictures / "ant", "--ref", tmp_path / "b.npy", *command)
    two = cli("eval", "images", tmp_path / "all.npy", "--ref", tmp_path / "b.npy", *command)
    assert figures(one) == figures(two) and "kid[features-tiny]" in figures(one)


def test_a_checkpoint_is_measured_the_same_twice(cli, class_run, features, pictures, cache):
    command = ("eval", "ddpm", "-c", class_run, "-n", 60, "--data", pictures, "--json", "-q",
               "--metric", "kid", "--features", features)  # fmt: skip
    first = cli(*command)
    assert first.code == 0 and first.err == "", first.err
    [kept] = cache.rglob("*.safetensors")
    stamp = kept.stat().st_mtime_ns
    assert cli(*command).stdout == first.stdout and kept.stat().st_mtime_ns == stamp
    record = first.records[0]
    assert record["metric"] == "kid[features-tiny]" and record["n"] == 60
    settings = record["settings"]
    assert (settings["data_n"], settings["resized_to"], settings["subset_size"]) == (60, 8, 30)
    other = figures(cli(*command, "--batch-size", 7))
    assert other == pytest.approx(figures(first), rel=1e-3)
    gate = cli(*command, "--gate", "kid[features-tiny]<0")
    assert gate.code == 7 and "kid[features-tiny] is" in gate.err
    usual = cli(*command[:-4], "--features", features)
    assert {"loss", "kid[features-tiny]"} <= set(figures(usual))
    assert "fid[features-tiny]" not in figures(usual)


def test_wrong_inputs(cli, class_run, text_run, features, pictures, tmp_path):
    eval_ddpm = ("eval", "ddpm", "-c", class_run, "--data", pictures)
    for command, words in [
        ((*eval_ddpm, "--metric", "kid", "-n", 60), "--features"),
        ((*eval_ddpm, "--metric", "bleu"), "ddpm has loss, bpd, scenes, fid, kid"),
        (("eval", "diffusion-lm", "-c", text_run, "--metric", "kid"), "diffusion-lm has loss"),
        ((*eval_ddpm, "--metric", "kid", "-n", 20, "--features", features), "at least 50"),
        ((*eval_ddpm, "--metric", "fid", "-n", 16, "--features", features), "at least"),
        ((*eval_ddpm, "--metric", "loss", "--features", features), "for the metric kid or fid"),
    ]:
        result = cli(*command)
        assert result.code == 2 and words in result.err, result.err
    folder = tmp_path / "large"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(folder / f"{i}.png")
    images = ("eval", "images", folder, "--ref", pictures / "ant", "--features", features)
    result = cli(*images)
    assert result.code == 2 and "8 × 9 × 3 and 8 × 8 × 3" in result.err
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "2.png")
    result = cli(*images)
    assert result.code == 4 and "2.png" in result.err
    result = cli("eval", "images", pictures / "ant", "--ref", pictures / "bee", "--metric", "bleu",
                 "--features", features)  # fmt: skip
    assert result.code == 2 and "fid and kid" in result.err


def test_too_few_pictures_are_told_before_any_is_drawn(cli, class_run, pictures, monkeypatch):
    monkeypatch.setattr(Backend, "draw", lambda *given, **more: pytest.fail("drawn"))
    wide = Extractor("wide", "wide", 8, lambda x: x.flatten(1))  # 192 features
    monkeypatch.setattr(request, "load_extractor", lambda name, device: wide)
    result = cli("eval", "ddpm", "-c", class_run, "--data", pictures, "--metric", "fid", "-n", 60,
                 "--features", "wide")  # fmt: skip
    assert result.code == 2 and "fid takes at least 193 pictures" in result.err


@pytest.mark.parametrize("lack", ["pictures", "library"])
def test_what_kid_lacks_is_told_before_any_is_drawn(
    cli, class_run, pictures, features, tmp_path, monkeypatch, lack
):
    monkeypatch.setattr(Backend, "draw", lambda *given, **more: pytest.fail("drawn"))
    if lack == "library":
        monkeypatch.setitem(sys.modules, "torchmetrics.image.kid", None)
    few = pictures
    if lack == "pictures":
        few = tmp_path
        for path in pictures.glob("*/1*.png"):
            (few / path.parent.name).mkdir(exist_ok=True)
            shutil.copy(path, few / path.parent.name)
    result = cli("eval", "ddpm", "-c", class_run, "--data", few, "-n", 60, "--features", features)
    words = {"pictures": "kid takes at least 50 pictures, there are", "library": "pip install"}
    assert result.code == 2 and words[lack] in result.err


def test_the_usual_distance_is_that_of_the_smaller_set(
    cli, class_run, pictures, features, monkeypatch
):
    n = len([*pictures.glob("*/*.png")])
    monkeypatch.setattr(distances, "MANY", n + 1)
    result = cli("eval", "ddpm", "-c", class_run, "--data", pictures, "-n", n + 9, "--json", "-q",
                 "--features", features, "--steps", 1)  # fmt: skip
    assert "kid[features-tiny]" in [record["metric"] for record in result.records]
    settings = result.records[-1]["settings"]
    assert (settings["data_n"], settings["subset_size"]) == (n, n // 2)


def test_a_vision_model_of_transformers_in_a_folder(tmp_path):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=16, image_size=32, patch_size=16)  # fmt: skip
    with torch_seed("test"):
        model, other = ViTModel(config), ViTModel(config)
    model.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    extractor = load_extractor(str(tmp_path / "vit"), CPU)
    assert extractor.name == "vit" and extractor.size == 32
    with torch.no_grad():
        assert extractor.features(torch.zeros(2, 3, 8, 8)).shape == (2, 16)
    other.save_pretrained(tmp_path / "vit")  # whose features are others, though the name is not
    assert load_extractor(str(tmp_path / "vit"), CPU).identity != extractor.identity
    with pytest.raises(BadCheckpointError, match="no vision model of transformers"):
        load_extractor(str(tmp_path), CPU)


def test_samples_are_drawn_for_the_classes_of_what_they_are_compared_with(
    cli, class_run, features, pictures, monkeypatch
):
    """So that a guidance scale has something to guide to, and models that need a class can be
    measured."""
    drawn = []
    draw = Backend.draw

    def told(self, network, rng, sample, on_step=None, *, y=None, **more):
        drawn.append((sample.guidance_scale, y))
        return draw(self, network, rng, sample, on_step, y=y, **more)

    monkeypatch.setattr(Backend, "draw", told)
    command = ("eval", "ddpm", "-c", class_run, "-n", 60, "--data", pictures, "--json", "-q",
               "--metric", "kid", "--features", features, "--steps", 2)  # fmt: skip
    result = cli(*command, "--guidance-scale", 2)
    assert result.code == 0, result.err
    assert result.records[0]["settings"]["condition"] == "of the data"
    [(scale, y)] = drawn
    assert scale == 2 and len(y) == 60 and min(y.bincount(minlength=3)) > 5
    assert figures(cli(*command)) != figures(result)


def test_guidance_is_for_the_captioned_samples_alone(cli):
    few = ("eval", "mvtm", "-n", 2, "--steps", 1, "--metric", "scenes", "--json", "-q")
    result = cli(*few, "--guidance-scale", 3)
    assert result.code == 0, result.err
    scales = {r["metric"]: r["settings"]["guidance_scale"] for r in result.records}
    assert scales["scene_validity"] == 1 and scales["scene_validity[test-en]"] == 3


def test_a_negative_prompt_is_for_the_captioned_samples_alone(cli):
    few = ("eval", "ddpm", "-n", 2, "--steps", 1, "--metric", "scenes", "--json", "-q")
    result = cli(*few, "--guidance-scale", 3, "--negative", "a red circle")
    assert result.code == 0, result.err
    told = {r["metric"]: r["settings"]["negative"] for r in result.records}
    assert told["scene_validity"] == "" and told["scene_validity[test-en]"] == "a red circle"
