"""Classes: what training shows of them, guidance, and the command line that draws them."""

import json
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import CLASSES, Cli, fails
from PIL import Image
from torch import Tensor, nn

from gentool.backends.ddpm import Config, SampleConfig
from gentool.backends.ddpm.algorithm import guided
from gentool.backends.ddpm.backend import Backend
from gentool.checkpoint.load import load_checkpoint
from gentool.data.source import Example
from gentool.errors import BadDataError, UsageError
from gentool.evaluate.features import Config as FeaturesConfig
from gentool.evaluate.features.backend import Backend as FeaturesBackend
from gentool.rng import BatchRng, generator, torch_seed
from gentool.settings import build

TINY = {"channels": 8, "multipliers": [1], "blocks": 1, "attention": [], "norm_groups": 4}


def backend(classes: int = 3, sample: Any = None, **diffusion: Any) -> Backend:
    tree = {
        "data": {"image_size": 8},
        "model": TINY | {"classes": classes},
        "diffusion": {"T": 20, "schedule": "cosine", **diffusion},
        "sample": {"steps": 5} | (sample or {}),
    }
    return Backend(build(Config, tree))


def network(of: Backend) -> Any:
    """A network of `of` with no weight left at zero."""
    with torch_seed("test"):
        made = of.network()
        for parameter in made.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
        nn.init.normal_(made.get_submodule("classes").weight) if of.null_class else None
    return made.eval()


def calls(net: nn.Module) -> list[list[int]]:
    """What classes the network is told from now on, call by call."""
    heard: list[list[int]] = []
    net.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[2].tolist()))
    return heard


# --- training


def examples(n: int, label: int | None = 1) -> Any:
    image = torch.zeros(3, 8, 8)
    return [SimpleNamespace(image=image, label=label, key=f"photos/{i}.png") for i in range(n)]


@pytest.mark.parametrize("drop, expected", [(0.0, 0), (0.25, 500), (1.0, 2000)])
def test_the_share_of_examples_without_their_class_is_right(drop: float, expected: int) -> None:
    of = backend(drop_condition=drop)
    rng = BatchRng([generator("drop", i) for i in range(2000)])
    y = of.collate(examples(2000), rng)["y"]
    assert set(y.tolist()) <= {1, of.null_class} and of.null_class == 3
    assert int((y == 3).sum()) == pytest.approx(expected, abs=80 if 0 < drop < 1 else 0)


def test_what_is_dropped_depends_on_the_example_alone() -> None:
    of = backend(drop_condition=0.5)
    seeds = [generator("drop", i) for i in range(8)]
    whole = of.collate(examples(8), BatchRng(seeds))
    alone = of.collate(examples(1), BatchRng([generator("drop", 5)]))
    assert all(torch.equal(whole[name][5:6], alone[name]) for name in ("y", "t", "eps"))
    bare = backend(classes=0).collate(examples(1), BatchRng([generator("drop", 5)]))
    assert "y" not in bare and torch.equal(bare["eps"], alone["eps"])


def test_the_rows_of_the_classes_seen_and_no_other_are_trained() -> None:
    of = backend(drop_condition=0.5)
    net = network(of)
    x, t = torch.randn(3, 3, 8, 8, generator=generator("x")), torch.tensor([1, 9, 19])
    batch = {"x_0": x.clamp(-1, 1), "t": t, "eps": x, "y": torch.tensor([0, 3, 0])}
    of.loss(net, batch)["simple"].sum().backward()
    trained = net.get_submodule("classes").weight.grad.abs().sum(dim=1) > 0
    assert trained.tolist() == [True, False, False, True]


def test_an_example_without_a_class_is_named() -> None:
    source: Any = [Example("photos/0.png", np.zeros((8, 8, 3), np.uint8))]
    features = FeaturesBackend(build(FeaturesConfig, {"data": {"image_size": 32}}))
    for of in (backend(), features):
        with pytest.raises(BadDataError, match="photos/0.png has no class"):
            of.prepare(source, 0, generator("x"), augment=True)
    assert backend(classes=0).prepare(source, 0, generator("x"), augment=True).label is None


# --- guidance


def toy(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """A mean of 10 y + x_t, and a variance of 100 y + t."""
    shift = y.reshape(-1, 1, 1, 1)
    return torch.cat([x_t + 10 * shift, 100 * shift + t.reshape(-1, 1, 1, 1) + 0 * x_t], dim=1)


@pytest.mark.parametrize("scale, mean", [(0.0, 7), (0.5, 4.5), (1.0, 2), (2.0, -3), (4.0, -13)])
@pytest.mark.parametrize("learned", [True, False])
def test_guidance_by_hand(scale: float, mean: float, learned: bool) -> None:
    """out_c = 10 * 0.2 and out_u = 10 * 0.7; a learned variance is never mixed."""
    y, null, t = torch.tensor([0.2, 0.2]), torch.tensor([0.7, 0.7]), torch.tensor([3, 4])
    channels = 2 if learned else 1
    model_fn = guided(lambda *a: toy(*a)[:, :channels], [y], [null], scale)
    out = model_fn(torch.zeros(2, 1, 4, 4), t)
    assert out.shape == (2, channels, 4, 4)
    torch.testing.assert_close(out[:, 0], torch.full((2, 4, 4), float(mean)))
    if learned:
        condition = 0.7 if scale == 0 else 0.2
        expected = 100 * condition + t[:, None, None].float().expand(2, 4, 4)
        torch.testing.assert_close(out[:, 1], expected)


@pytest.mark.parametrize("scale, told", [(1.0, [0, 2]), (0.0, [3, 3]), (2.0, [0, 2, 3, 3])])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm++"])
def test_one_call_a_step_and_twice_the_batch_where_guided(
    scale: float, told: list[int], sampler: str
) -> None:
    of = backend()
    net, sample = network(of), SampleConfig(5, sampler, guidance_scale=scale)
    heard = calls(net)
    of.draw(net, BatchRng.for_samples(0, [0, 1]), sample, y=torch.tensor([0, 2]))
    assert heard == [told] * 5


def test_scales_0_and_1_are_the_two_branches_and_2_goes_beyond() -> None:
    of = backend()
    net = network(of)

    def draw(y: Tensor | None, scale: float = 1.0) -> Tensor:
        sample = SampleConfig(5, "ddim", guidance_scale=scale)
        return of.draw(net, BatchRng.for_samples(0, [0, 1]), sample, y=y)

    y, null = torch.tensor([0, 2]), torch.tensor([3, 3])
    assert torch.equal(draw(y, 0.0), draw(None)) and torch.equal(draw(null), draw(None))
    torch.testing.assert_close(
        draw(null, 3.0), draw(None), rtol=0, atol=1e-3
    )  # nothing to guide to
    assert not torch.allclose(draw(y), draw(None), atol=1e-3)
    assert not torch.allclose(draw(y, 2.0), draw(y), atol=1e-3)
    # Each picture has its own class, in whatever batch.
    alone = of.draw(net, BatchRng.for_samples(0, [1]), SampleConfig(5, "ddim"), y=y[1:])
    torch.testing.assert_close(alone[0], draw(y)[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "of, y, scale",
    [
        (backend(classes=0), None, 2.0),
        (backend(), None, 2.0),
        (backend(drop_condition=0.0), None, 1.0),
        (backend(drop_condition=0.0), torch.tensor([0]), 2.0),
        (backend(drop_condition=0.0), torch.tensor([3]), 1.0),
    ],
)
def test_what_a_model_was_not_taught_is_a_usage_error(
    of: Backend, y: Tensor | None, scale: float
) -> None:
    net = network(of)
    with pytest.raises(UsageError):
        of.draw(net, BatchRng.for_samples(0, [0]), SampleConfig(5, guidance_scale=scale), y=y)


@pytest.mark.parametrize("classes, drop", [(0, 0.1), (3, 0.0)])
def test_a_recipe_cannot_guide_a_model_that_it_does_not_teach(classes: int, drop: float) -> None:
    """Its previews would fail in the middle of training."""
    with pytest.raises(UsageError, match="sample.guidance_scale 2.0"):
        backend(classes, {"guidance_scale": 2.0}, drop_condition=drop)
    assert backend(classes, drop_condition=drop)


# --- the command line


@pytest.fixture
def sample(cli: Cli, class_run):
    return lambda *arguments: cli("sample", "ddpm", "-c", class_run, *arguments)


def test_a_row_of_the_grid_for_each_class(sample, tmp_path):
    out, array = tmp_path / "grid.png", tmp_path / "x.npy"
    classes = ("--class", "cat", "--class", "ant")
    result = sample(*classes, "-n", 3, "--out", out, "--json")
    assert result.code == 0 and Image.open(out).size == (3 * 10 - 2, 2 * 10 - 2)
    assert [record["class"] for record in result.records] == ["cat"] * 3 + ["ant"] * 3
    assert [record["index"] for record in result.records] == list(range(6))
    assert sample(*classes, "-n", 3, "--out", array).code == 0
    both = np.load(array)
    sample("--class", "ant", "-n", 6, "--out", array)
    np.testing.assert_allclose(np.load(array)[3:], both[3:], atol=1e-3)
    assert np.abs(np.load(array)[:3] - both[:3]).max() > 0.01
    result = sample("--class", "ant", "--index", 4, "--out", array, "--json")
    assert [(r["index"], r["class"]) for r in result.records] == [(4, "ant")]
    np.testing.assert_allclose(np.load(array)[0], both[4], atol=1e-3)
    result = sample("-n", 2, "--out", array, "--json")
    assert result.code == 0 and all("class" not in record for record in result.records)


def test_previews_are_drawn_of_every_class(class_run, tmp_path, monkeypatch):
    loaded = load_checkpoint(class_run, "ddpm")
    loaded.backend.sources()
    asked, draw = [], Backend.draw

    def heard(*given, y, **more):
        asked.append(y)
        return draw(*given, y=y, **more)

    monkeypatch.setattr(Backend, "draw", heard)
    loaded.backend.preview(loaded.network, tmp_path, "x", lambda: None)
    assert len(asked) == 1 and {*asked[0].tolist()} == {0, 1, 2}
    assert (tmp_path / "x.png").is_file() and (class_run / "samples/step-00000030.png").is_file()


def test_wrong_classes_and_scales_are_usage_errors(sample, cli, tiny_run, tmp_path):
    out = ("-q", "-n", 1, "--out", tmp_path / "x.png")
    fails(sample("--class", "cart", *out), 2, "'cart'", "did you mean 'cat'?")
    fails(sample("--class", "", *out), 2, "ant, bee, cat")
    fails(sample("--guidance-scale", 2, *out), 2, "--guidance-scale 2", "--class NAME")
    fails(sample("--guidance-scale", -1, *out), 2, "guidance")
    fails(sample("--class", "ant", "--class", "bee", "--index", 0, "-q"), 2, "--index")
    plain = ("sample", "ddpm", "-c", tiny_run)
    fails(cli(*plain, "--guidance-scale", 2, *out), 2, "--guidance-scale 2", "no classes")
    fails(cli(*plain, "--class", "ant", *out), 2, "'ant'", "no classes")
    assert not list(tmp_path.iterdir())


def test_a_model_that_was_not_told_its_datas_classes_has_none(cli, class_recipe, tmp_path):
    out = tmp_path / "run"
    more = ("--set", "model.classes=0", "--set", "train.sample_every=0", "--steps", 1, "-q")
    assert cli("train", "ddpm", "--recipe", class_recipe, "--out", out, *more).code == 0
    assert json.loads((out / "config.json").read_text())["data"]["labels"] == list(CLASSES)
    result = cli("sample", "ddpm", "-c", out, "--class", "ant", "-q", "--out", tmp_path / "x.png")
    fails(result, 2, "'ant'", "no classes")


def test_the_number_of_classes_must_be_that_of_the_data(cli, train, class_recipe, tmp_path):
    command = ("train", "ddpm", "--recipe", class_recipe, "--out", tmp_path / "run", "-q")
    fails(cli(*command, "--set", "model.classes=5"), 2, "model.classes is 5", "3 classes")
    fails(train("--set", "model.classes=5", "-q"), 2, "no classes", "model.classes=0")
    assert not (tmp_path / "run").exists()


def test_a_record_without_a_label_stops_training_or_is_skipped(cli, class_recipe, tmp_path):
    files = sorted(class_recipe.parent.glob("pictures/*/*.png"))
    rows = {
        "image": [file.read_bytes() for file in files],
        "label": [None if i == 5 else file.parent.name for i, file in enumerate(files)],
    }
    pq.write_table(pa.table(rows), tmp_path / "some.parquet")
    out = ("--out", tmp_path / "run", "-q", "--data", tmp_path / "some.parquet")
    fails(cli("train", "ddpm", "--recipe", class_recipe, *out), 4, "row 5 has no class")
    skip = ("--on-error", "skip", "--steps", 10, *out[:2], *out[3:])
    result = cli("train", "ddpm", "--recipe", class_recipe, *skip, "--overwrite")
    assert result.code == 0 and "skipped: some.parquet row 5 has no class" in result.err
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    plain = ("--set", "model.classes=0", "--steps", 2)
    assert cli("train", "ddpm", "--recipe", class_recipe, *out, *plain).code == 0
