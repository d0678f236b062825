"""The adversarial term of the tokenizer of pictures: its two sides, its start, its resume."""

from pathlib import Path

import pytest
import torch
from conftest import log_of, states_of, trained, weights_of
from pictures import VQ
from safetensors.torch import load_file
from torch import nn

from gentool.checkpoint.config import read_config
from gentool.checkpoint.load import load_checkpoint
from gentool.rng import torch_seed
from gentool.tokenizers.vq.adversarial import (
    Discriminator,
    adaptive_weight,
    adversarial_terms,
    hinge_loss,
)

START = 12
ADVERSARIAL = f"""
[adversarial]
weight = 0.8
start = {START}
channels = 4
layers = 1
"""


@pytest.fixture(scope="module")
def recipe(class_recipe, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    data = f'[data]\nspec = ["{class_recipe.parent / "pictures"}"]\nimage_size = 8\n'
    text = VQ.replace("[model]", f"{data}[model]", 1).replace("steps = 40", "steps = 20")
    text = text.replace("save_every = 10", "save_every = 5").replace("muon", "adam")
    path.write_text(text.replace("log_every = 10", "log_every = 1") + ADVERSARIAL)
    return path


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory) -> Path:
    """A run whose term begins after START of 20 steps. Not to be changed."""
    return trained("vq", recipe, tmp_path_factory.mktemp("runs") / "vq")


def discriminator(layers: int = 2) -> Discriminator:
    with torch_seed("discriminator"):
        return Discriminator(3, 4, layers)


def pictures(seed: int, n: int = 4) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_hinge_loss_and_its_limits():
    real, fake = torch.tensor([[2.0, 0.5], [0.0, 0.0]]), torch.tensor([[-3.0, 0.0], [0.0, 0.0]])
    # ((0 + 0.5) / 2 + (0 + 1) / 2) / 2 of the first; the second knows nothing
    assert torch.equal(hinge_loss(real, fake), torch.tensor([0.375, 1.0]))
    assert (hinge_loss(10 + real, fake - 10) == 0).all()


def test_the_discriminator_sees_patches():
    for layers, side in ((1, 6), (2, 2)):
        assert discriminator(layers)(pictures(0)).shape == (4, side, side)
    many = Discriminator(3, 2, 5)
    widths = [layer.out_channels for layer in many if isinstance(layer, nn.Conv2d)]
    assert widths == [2, 4, 8, 16, 16, 16, 1], "8 times as many channels at the most"
    # A pixel tells of the patches that see it alone: 70 pixels wide for the usual three layers.
    usual = Discriminator(3, 4, 3)
    for layer in usual:
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = lambda x: x  # mixes all of a batch
    x = torch.zeros(1, 3, 192, 192, requires_grad=True)
    usual(x)[0, 12, 12].backward()
    assert (x.grad[0].abs().sum(dim=0) > 0).any(dim=0).sum() == 70


def test_the_adaptive_weight_makes_both_gradients_alike():
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    small, large = (w * w).sum() / 100, 5 * w.sum()
    lam = adaptive_weight(small, large, w)
    assert lam == pytest.approx(0.1 / (50**0.5 + 1e-4)) and not lam.requires_grad
    assert adaptive_weight(large, 0 * small, w) == pytest.approx(1e4), "bounded"


def test_each_side_is_trained_by_its_own_term():
    D, x = discriminator(), pictures(0)
    w = nn.Parameter(torch.full((1, 3, 1, 1), 0.5))
    x_hat = w * pictures(1)
    reconstruction = (x - x_hat).square().flatten(1).mean(dim=1)
    terms = adversarial_terms(D, x, x_hat, reconstruction, w, 1.0)
    assert terms["generator"].shape == terms["discriminator"].shape == (4,)

    def gradients(term):
        of = torch.autograd.grad(
            term.sum(), [w, *D.parameters()], retain_graph=True, allow_unused=True
        )
        return [None if g is None else g.abs().sum().item() for g in of]

    mine, *theirs = gradients(terms["generator"])
    assert mine > 0 and not any(theirs)
    mine, *theirs = gradients(terms["discriminator"])
    assert not mine and all(theirs[:-1]), "the last bias: half a push each way"
    # With the weight 1 the generator's term pulls at the last layer as the reconstruction does.
    pull = torch.autograd.grad(terms["generator"].mean(), w, retain_graph=True)[0].norm()
    whole = torch.autograd.grad(reconstruction.mean(), w, retain_graph=True)[0].norm()
    assert pull == pytest.approx(whole.item(), rel=0.05)


def test_a_discriminator_learns_what_is_real_and_nothing_of_what_is_alike():
    for contrast, told_apart in ((0.2, True), (1.0, False)):
        D = discriminator()
        optimizer = torch.optim.Adam(D.parameters(), 2e-3)
        for _ in range(30):
            loss = hinge_loss(D(pictures(0, 16)), D(contrast * pictures(1, 16))).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss = hinge_loss(D(pictures(3, 16)), D(contrast * pictures(4, 16))).mean()
        assert loss < 0.3 if told_apart else loss > 0.8


def test_the_term_begins_late_and_before_it_all_is_as_without(cli, recipe, run, tmp_path):
    records = [record for record in log_of(run) if "loss" in record]
    begun = [record["step"] for record in records if "discriminator" in record]
    assert begun == list(range(START + 1, 21))
    for record in records:
        parts = ("reconstruction", "commitment", "generator", "discriminator")
        assert record["loss"] == pytest.approx(sum(record.get(p, 0) for p in parts), rel=1e-4)
    ends = []
    for weight in (0.8, 0.0):
        out = tmp_path / str(weight)
        command = ("train", "vq", "--recipe", recipe, "--out", out, "--stop-at", START, "-q")
        assert cli(*command, "--set", f"adversarial.weight={weight}").code == 0
        ends.append(weights_of(out))
    assert ends[0] == ends[1]
    assert weights_of(run) != ends[0]


def test_a_cut_run_ends_in_the_same_bytes_and_the_discriminator_stays_at_home(
    cli, recipe, run, tmp_path
):
    out = tmp_path / "run"
    command = ("train", "vq", "--recipe", recipe, "--out", out, "-q")
    assert cli(*command, "--stop-at", START - 2).code == 0  # before the term, and in it
    assert cli(*command, "--resume", "latest", "--stop-at", START + 3).code == 0
    assert cli(*command, "--resume", "latest").code == 0
    assert weights_of(out) == weights_of(run) and log_of(out) == log_of(run)
    last = f"state/step-{states_of(run)[-1]:08d}"
    for name in ("model", "optimizer"):
        file = f"{last}/{name}.safetensors"
        assert (out / file).read_bytes() == (run / file).read_bytes()
    trained_one = load_file(run / last / "model.safetensors")
    first = load_file(run / "state/step-00000015/model.safetensors")
    names = [name for name in trained_one if name.startswith("discriminator.")]
    assert names and any(not torch.equal(trained_one[n], first[n]) for n in names)
    sampling = load_file(run / "model.safetensors")
    assert sampling.keys() == trained_one.keys() - set(names)
    assert load_checkpoint(run, "vq").step == 20


def test_a_tokenizer_is_trained_on_with_a_term_that_it_had_not(cli, recipe, run, tmp_path):
    begin = ("train", "vq", "--recipe", recipe, "-q", "--steps", 2, "--init")
    assert cli(*begin, run, "--out", tmp_path / "a", "--set", "adversarial.weight=0").code == 0
    result = cli(*begin, tmp_path / "a", "--out", tmp_path / "b")
    assert result.code == 0, result.err  # the steps of --init count: the term begins at once
    assert "generator" in log_of(tmp_path / "b")[0] and "generator" not in log_of(tmp_path / "a")[0]
    result = cli("train", "vq", "--recipe", recipe, "--set", "adversarial.layers=2", "--dry-run")
    assert result.code == 2 and "no patch of 8 pixels" in result.err


def test_how_a_step_is_divided_does_not_move_the_start(cli, recipe, tmp_path):
    run = tmp_path / "run"
    assert cli("train", "vq", "--recipe", recipe, "--out", run, "--stop-at", 5, "-q").code == 0
    batch = read_config(run).config["train"]["batch_size"]
    halves = ("--set", f"train.batch_size={batch // 2}", "--set", "train.accumulate=2")
    assert cli("train", "vq", "--out", run, "--resume", "latest", *halves, "-q").code == 0
    first = next(r["step"] for r in log_of(run) if "discriminator" in r)
    assert first == START + 1
