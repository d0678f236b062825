"""Pictures from captions: what training shows of them, guidance, prompts and frozen encoders."""

import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fails, weights_of
from PIL import Image
from tars import png, shard
from test_conditions import TINY
from torch import Tensor, nn

from gentool.backends.ddpm import Config, SampleConfig
from gentool.backends.ddpm.algorithm import guided
from gentool.backends.ddpm.backend import Backend
from gentool.backends.ddpm.diffusers_config import unet_config
from gentool.checkpoint.load import load_checkpoint
from gentool.data.config import ImageData
from gentool.errors import BadCheckpointError, UsageError
from gentool.rng import BatchRng, generator, torch_seed
from gentool.settings import build
from gentool.tokenizers import train as train_tokenizer

TEXTS = ["a red circle", "a blue square"]
WORDS = train_tokenizer("words", TEXTS)
TEXT = {"encoder": "transformer", "length": 6, "width": 8, "layers": 1, "heads": 2}


@pytest.fixture(autouse=True, scope="module")
def _few_captions():
    """Tokenizers are made from fewer captions: these hold every word."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gentool.data.holdout.ENOUGH", 500)
        yield


def backend(sample: Any = None, classes: int = 0, **diffusion: Any) -> Backend:
    tree = {
        "data": {"image_size": 8},
        "model": TINY | {"attention": [8], "text": TEXT, "classes": classes},
        "diffusion": {
            "T": 20,
            "schedule": "cosine",
            "prediction": "x_0",
            "loss": "x_0",
            **diffusion,
        },
        "sample": {"steps": 5} | (sample or {}),
    }
    return Backend(build(Config, tree), WORDS)


def network(of: Backend) -> Any:
    """A network of `of` with no weight left at zero."""
    with torch_seed("test"):
        made = of.network()
        for parameter in made.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
    return made.eval()


def rows(of: Backend, *captions: str) -> Tensor:
    assert of.captions
    return of.captions.rows(captions)


# --- training


def examples(n: int) -> Any:
    image = torch.zeros(3, 8, 8)
    return [SimpleNamespace(image=image, label=1, caption=TEXTS[0], key=str(i)) for i in range(n)]


@pytest.mark.parametrize("drop, expected", [(0.0, 0), (0.25, 250), (1.0, 1000)])
def test_a_share_of_the_examples_shows_the_empty_caption(drop: float, expected: int) -> None:
    of = backend(drop_condition=drop)
    text = of.collate(examples(1000), BatchRng([generator("d", i) for i in range(1000)]))["text"]
    empty = (text == rows(of, "")).all(dim=1)
    assert int(empty.sum()) == pytest.approx(expected, abs=60 if 0 < drop < 1 else 0)
    assert (text[~empty] == rows(of, TEXTS[0])).all()


def test_class_and_caption_are_dropped_together_and_by_the_example_alone() -> None:
    of = backend(classes=3, drop_condition=0.5)
    whole = of.collate(examples(40), BatchRng([generator("d", i) for i in range(40)]))
    empty = (whole["text"] == rows(of, "")).all(dim=1)
    assert empty.any() and not empty.all()
    assert torch.equal(empty, whole["y"] == of.null_class)
    alone = of.collate(examples(1), BatchRng([generator("d", 5)]))
    assert all(torch.equal(whole[name][5:6], alone[name]) for name in ("y", "t", "eps", "text"))


def test_the_loss_trains_the_text_encoder_and_every_reader() -> None:
    of = backend()
    net = network(of)
    x = torch.randn(2, 3, 8, 8, generator=generator("x"))
    batch = {"x_0": x.clamp(-1, 1), "t": torch.tensor([1, 19]), "eps": x, "text": rows(of, *TEXTS)}
    of.loss(net, batch)["simple"].sum().backward()
    idle = [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in idle if "norm" not in name], idle
    assert any(name.startswith("text.") for name, _ in net.named_parameters())


def test_a_network_without_captions_has_nothing_of_them() -> None:
    tree = {"data": {"image_size": 8}, "model": TINY}
    bare = Backend(build(Config, tree))
    assert bare.captions is None and not build(Config, tree).has_tokens
    names = [name for name, _ in bare.network().named_parameters()]
    assert not [name for name in names if "text" in name or "pooled" in name or "reading" in name]


# --- drawing


def draw(of: Backend, net: nn.Module, *captions: str, indices: Any = (0, 1), **sample: Any) -> Any:
    text = rows(of, *captions) if captions else None
    settings = SampleConfig(5, "ddim", **sample)
    return of.draw(net, BatchRng.for_samples(0, list(indices)), settings, text=text)


def test_the_caption_decides_and_the_empty_one_is_none() -> None:
    of = backend()
    net = network(of)
    told = draw(of, net, *TEXTS)
    torch.testing.assert_close(draw(of, net, "", ""), draw(of, net), rtol=0, atol=1e-4)
    assert (told - draw(of, net)).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    assert (told - draw(of, net, *TEXTS[::-1])).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    alone = draw(of, net, TEXTS[1], indices=[1])
    torch.testing.assert_close(alone[0], told[1], rtol=0, atol=1e-3)
    torch.testing.assert_close(draw(of, net, *TEXTS, guidance_scale=0.0), draw(of, net))


@pytest.mark.parametrize("scale, batches", [(1.0, [2] * 5), (2.0, [4] * 5)])
def test_text_is_encoded_once_and_branches_share_a_call(scale: float, batches: list[int]) -> None:
    of = backend()
    net = network(of)
    encoded: list[int] = []
    seen: list[int] = []
    net.get_submodule("text").register_forward_pre_hook(lambda _, i: encoded.append(len(i[0])))
    net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    draw(of, net, *TEXTS, guidance_scale=scale)
    assert encoded == [2, 1] and seen == batches


def test_guidance_inside_its_interval_alone() -> None:
    sizes: list[int] = []

    def model_fn(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(x_t))
        return x_t + y[:, None, None, None]

    fn = guided(model_fn, [torch.ones(1)], [torch.zeros(1)], 3.0, (5, 10))
    means = [fn(torch.zeros(1, 1, 2, 2), torch.tensor([t])).mean().item() for t in (4, 5, 10, 11)]
    assert means == [1, 3, 3, 1] and sizes == [1, 2, 2, 1]
    fn = guided(model_fn, [torch.ones(1)], [torch.zeros(1)], 0.0, (5, 10))  # without y there
    means = [fn(torch.zeros(1, 1, 2, 2), torch.tensor([t])).mean().item() for t in (4, 5, 10, 11)]
    assert means == [1, 0, 0, 1] and sizes[4:] == [1, 1, 1, 1]
    of = backend()
    net = network(of)
    full, plain = (draw(of, net, *TEXTS, guidance_scale=s) for s in (4.0, 1.0))
    part = draw(of, net, *TEXTS, guidance_scale=4.0, guidance_from=0.3, guidance_to=0.8)
    assert all((part - other).abs().max() > 1e-4 for other in (full, plain))


def test_a_negative_prompt_is_what_guidance_leads_away_from() -> None:
    of = backend()
    net = network(of)
    usual = draw(of, net, *TEXTS, guidance_scale=3.0)
    away = draw(of, net, *TEXTS, guidance_scale=3.0, negative="a red square")
    assert (usual - away).abs().max() > 1e-3
    itself = draw(of, net, TEXTS[0], TEXTS[0], guidance_scale=3.0, negative=TEXTS[0])
    torch.testing.assert_close(itself, draw(of, net, TEXTS[0], TEXTS[0]), rtol=0, atol=1e-3)
    alone = draw(of, net, guidance_scale=3.0, negative=TEXTS[0])  # no caption, but not that
    assert (alone - draw(of, net)).abs().max() > 1e-3


@pytest.mark.parametrize("captions, sample, words", [
    ([], {"guidance_scale": 2.0}, "--guidance-scale 2.0 without"),
    (TEXTS, {"negative": "a"}, "--negative does nothing"),
    (TEXTS, {"guidance_scale": 2.0, "guidance_from": 0.6, "guidance_to": 0.5}, "--guidance-from"),
])  # fmt: skip
def test_what_would_do_nothing_is_a_usage_error(captions: Any, sample: Any, words: str) -> None:
    of = backend()
    with pytest.raises(UsageError, match=words):
        draw(of, network(of), *captions, **sample)


def test_a_model_that_was_always_told_cannot_draw_without() -> None:
    of = backend(drop_condition=0.0)
    net = network(of)
    assert draw(of, net, *TEXTS).shape == (2, 3, 8, 8)
    for captions, scale in (((), 1.0), (("", TEXTS[0]), 1.0), (TEXTS, 2.0)):
        with pytest.raises(UsageError, match="trained with a caption for every image"):
            draw(of, net, *captions, guidance_scale=scale)


def test_the_checkpoints_own_scale_stands_where_nothing_is_named() -> None:
    of = backend(sample={"guidance_scale": 2.0})
    net = network(of)
    assert torch.equal(draw(of, net, guidance_scale=2.0), draw(of, net, guidance_scale=1.0))


# --- the command line

PROMPT = "a large red circle in the top left"


@pytest.fixture
def sample(cli, caption_run):
    return lambda *arguments: cli("sample", "ddpm", "-c", caption_run, *arguments)


def test_a_row_of_the_grid_for_each_prompt(sample, tmp_path):
    out, array = tmp_path / "grid.png", tmp_path / "x.npy"
    prompts = ("--prompt", PROMPT, "--prompt", "左上角有一个红色的大圆形")
    result = sample(*prompts, "-n", 2, "--out", out, "--json")
    assert result.code == 0 and "not know" not in result.err
    assert [r["prompt"] for r in result.records] == [prompts[1]] * 2 + [prompts[3]] * 2
    assert Image.open(out).size == (2 * 34 - 2, 2 * 34 - 2)
    sample("--prompt", PROMPT, "--index", 1, "--out", array)
    alone = np.load(array)
    sample(*prompts, "-n", 2, "--out", array)
    np.testing.assert_allclose(np.load(array)[1], alone[0], atol=1e-3)


def test_a_picture_for_each_line_and_an_empty_one_is_drawn_freely(
    cli, caption_run, sample, tmp_path
):
    (tmp_path / "captions.txt").write_text(f"{PROMPT}\n\na red zebra\n")
    array = tmp_path / "x.npy"
    command = ("decode", "ddpm", tmp_path / "captions.txt", "-c", caption_run, "--out", array)
    result = cli(*command, "--json")
    assert result.code == 0 and [r["caption"] for r in result.records] == [
        PROMPT,
        "",
        "a red zebra",
    ]
    assert "line 3: 'a red zebra' has words that this model does not know" in result.err
    drawn = np.load(array)
    sample("-n", 2, "--out", array)
    np.testing.assert_allclose(drawn[1], np.load(array)[1], atol=1e-3)
    sample("-n", 1, "--prompt", PROMPT, "--out", array)
    np.testing.assert_allclose(drawn[0], np.load(array)[0], atol=1e-3)
    assert cli(*command, "--batch-size", 1).code == 0
    np.testing.assert_allclose(drawn, np.load(array), atol=1e-3)


def test_a_hole_is_filled_under_a_caption_and_all_else_is_kept(cli, caption_run, tmp_path):
    picture, array = tmp_path / "in.png", tmp_path / "x.npy"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(picture)
    (tmp_path / "c.txt").write_text(f"{PROMPT}\na small blue cross is above a large white square\n")
    edit = ("--image", picture, "--box", "8,8,16,16", "--resample", 1, "--out", array)
    assert cli("decode", "ddpm", tmp_path / "c.txt", "-c", caption_run, *edit).code == 0
    drawn = np.load(array)
    kept = np.ones((32, 32), bool)
    kept[8:24, 8:24] = False
    known = (pixels / 127.5 - 1).transpose(2, 0, 1)
    np.testing.assert_allclose(drawn[:, :, kept], np.stack([known[:, kept]] * 2), atol=1e-6)
    assert np.abs(drawn[0] - drawn[1])[:, ~kept].max() > 1e-3


def test_wrong_prompts(sample, cli, tiny_run, tmp_path):
    out = ("-q", "-n", 1, "--out", tmp_path / "x.png")
    plain = ("sample", "ddpm", "-c", tiny_run)
    fails(cli(*plain, "--prompt", PROMPT, *out), 2, "reads no captions")
    fails(cli(*plain, "--negative", "a", *out), 2, "reads no captions")
    fails(sample("--prompt", PROMPT, "--class", "cat", *out), 2, "one of them")
    fails(sample("--class", "cat", *out), 2, "no classes")
    fails(sample("--guidance-scale", 2, *out), 2, "--prompt TEXT")
    fails(sample("--prompt", PROMPT, "--prompt", "b", "--index", 0, "-q"), 2, "--index")
    assert not list(tmp_path.iterdir())
    result = sample("--prompt", PROMPT + " of the picture" * 9, *out[1:])
    assert result.code == 0 and "is too long and cut" in result.err


def test_diffusers_has_no_place_for_captions(tmp_path):
    config = build(Config, {"model": {"text": TEXT}})
    with pytest.raises(BadCheckpointError, match="model.text.encoder"):
        unet_config(config, tmp_path)


def test_previews_say_what_they_show(caption_run):
    text = (caption_run / "samples/step-00000040.txt").read_text().splitlines()
    assert len(text) == 16 and all(text)


def test_previews_of_captions_of_any_kind(caption_run, tmp_path):
    loaded = load_checkpoint(caption_run, "ddpm")
    members = [
        (f"{i}.{kind}", data)
        for i in range(2)
        for kind, data in (("png", png(i)), ("json", rb'{"said": "a red\ncircle \ud83d"}'))
    ]
    shard(tmp_path / "x.tar", members)
    data = ImageData((f"{tmp_path}/x.tar",), image_size=8, caption_column="said")
    loaded.config.data = data
    loaded.backend.sources()
    loaded.backend.preview(loaded.network, tmp_path, "step", lambda: None)
    assert (tmp_path / "step.txt").read_text("utf-8") == 16 * "a red circle \ufffd\n"

    loaded.config.data = replace(data, where=("said==nothing",))
    loaded.backend.sources()
    loaded.backend.preview(loaded.network, tmp_path, "none", lambda: None)
    assert not list(tmp_path.glob("none.*")), "nothing is held out"


def test_a_cut_run_ends_in_the_same_bytes(cli, caption_recipe, tmp_path):
    command = ("train", "ddpm", "--recipe", caption_recipe, "--steps", 6, "-q")
    quiet = ("--set", "train.sample_every=0", "--set", "train.validate_every=0")
    assert cli(*command, *quiet, "--out", tmp_path / "whole").code == 0
    assert cli(*command, *quiet, "--out", tmp_path / "cut", "--stop-at", 3).code == 0
    assert cli(*command, *quiet, "--out", tmp_path / "cut", "--resume", "latest").code == 0
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_a_checkpoint_without_its_tokenizer_is_refused(cli, caption_run, tmp_path):
    copy = shutil.copytree(caption_run, tmp_path / "copy")
    shutil.rmtree(copy / "tokenizer")
    out = ("--out", tmp_path / "x.png")
    fails(cli("sample", "ddpm", "-c", copy, "-q", "-n", 1, *out), 4, "tokenizer")


def test_pictures_without_captions_cannot_be_trained_from_captions(cli, caption_recipe, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    command = ("train", "ddpm", "--recipe", caption_recipe, "--out", tmp_path / "run", "-q")
    result = cli(*command, "--data", tmp_path)  # the recipe's language is that of scenes
    fails(result, 4, "no text to train a tokenizer on", "ddpm-photos")
    fails(cli(*command, "--data", tmp_path, "--set", "data.language=zh"), 2, "data.language")
