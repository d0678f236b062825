"""The tokenizer of pictures: its quantiser, its folder, and its training as a run."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import log_of, trained, weights_of
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from gentool.checkpoint.tokenizer import find_tokenizer
from gentool.data.scenes import Scenes, read_scene
from gentool.errors import BadCheckpointError, UsageError
from gentool.render import to_uint8
from gentool.rng import torch_seed
from gentool.settings import build
from gentool.tokenizers import load
from gentool.tokenizers.vq import Config, ModelConfig, QuantizerConfig
from gentool.tokenizers.vq.algorithm import (
    commitment,
    distances,
    entropy_loss,
    revive,
    spread,
    straight_through,
    update_codebook,
)
from gentool.tokenizers.vq.backend import Backend
from gentool.tokenizers.vq.network import VQ
from gentool.tokenizers.vq.tokenizer import VQTokenizer, tokenizer_of

VQ_RECIPE = """\
backend = "vq"
[model]
patch_size = 4
channels = 8
multipliers = [1]
blocks = 1
middle = 0
norm_groups = 4
codes = 16
dimensions = 4
[quantizer]
revive_every = 5
[train]
batch_size = 4
steps = 20
learning_rate = 0.003
ema_decay = 0.9
log_every = 5
save_every = 10
validate_every = 10
validation_examples = 8
sample_every = 20
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny-vq.toml"
    path.write_text(VQ_RECIPE)
    return path


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory) -> Path:
    """A run of the tiny recipe. Not to be changed."""
    return trained("vq", recipe, tmp_path_factory.mktemp("runs") / "vq")


@pytest.fixture(scope="module")
def tokenizer(run) -> VQTokenizer:
    return find_tokenizer(str(run))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(n: int) -> Tensor:
    source = Scenes("test")
    images = np.stack([source[i].image for i in range(n)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def tiny(**model: object) -> VQ:
    settings = {"patch_size": 4, "channels": 8, "multipliers": (1,), "blocks": 1, "middle": 0}
    settings |= {"norm_groups": 4, "codes": 16, "dimensions": 4}
    with torch_seed("test"):
        quantizer = QuantizerConfig(revive_every=3)
        return VQ(build(ModelConfig, settings | model), 3, quantizer, per_step=8)


def test_distances_are_squared_and_in_fp32():
    z, e = normal(5, 4), normal(3, 4, seed=1)
    expected = torch.cdist(z, e).square()
    assert torch.allclose(distances(z, e), expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distances(z, e), distances(z, e).float())
        assert torch.allclose(distances(z, e), expected, atol=1e-5)


def test_the_gradient_goes_straight_through():
    z, e_id = normal(2, 3, 4).requires_grad_(), normal(2, 3, 4, seed=1)
    z_q = straight_through(z, e_id)
    assert torch.equal(z_q, e_id), "to the bit: the decoder sees codes, in training too"
    upstream = normal(2, 3, 4, seed=2)
    z_q.backward(upstream)
    assert torch.equal(z.grad, upstream)


def test_commitment_moves_the_encoder_alone():
    z, e_id = normal(2, 3, 4).requires_grad_(), normal(2, 3, 4, seed=1).requires_grad_()
    commitment(z, e_id).sum().backward()
    assert e_id.grad is None and torch.allclose(z.grad, 2 * (z - e_id).detach() / 12)


def test_the_entropy_term_is_lowest_where_tokens_are_sure_and_codes_even():
    sure = torch.full((1, 4, 4), 1.0) - torch.eye(4)[None]  # each token near to a code of its own
    same = torch.full((1, 4, 4), 1.0)
    same[..., 0] = 0  # all near to one code
    unsure = torch.ones(1, 4, 4)
    values = [entropy_loss(d, 0.01).item() for d in (sure, same, unsure)]
    assert values[0] == pytest.approx(-math.log(4), abs=1e-3)
    assert values[1] == pytest.approx(0, abs=1e-3) and values[2] == pytest.approx(0, abs=1e-3)


def test_codes_are_averages_of_what_chose_them():
    e, n, m = normal(3, 2), torch.ones(3), torch.zeros(3, 2)
    z, ids = normal(10, 2, seed=1), torch.tensor([0] * 6 + [1] * 4)
    counts = update_codebook(e, n, m, z, ids, decay=0.0)  # without a past
    assert counts.tolist() == [6, 4, 0]
    assert torch.allclose(e[0], z[:6].mean(dim=0), atol=1e-4)
    assert torch.allclose(e[1], z[6:].mean(dim=0), atol=1e-4)
    before = e.clone()
    for _ in range(300):
        update_codebook(e, n, m, z, torch.tensor([1] * 6 + [0] * 4), decay=0.9)
    assert torch.allclose(e[1], z[:6].mean(dim=0), atol=1e-3) and not torch.equal(e, before)


def test_k_means_finds_clusters_however_unlike_in_size():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    z = torch.cat(
        [c + 0.1 * normal(n, 2, seed=n) for c, n in zip(centres, (900, 5, 7, 3), strict=True)]
    )
    with torch_seed("test"):
        e = spread(z, 4)
    assert torch.cdist(centres, e).min(dim=1).values.max() < 0.3
    with torch_seed("test"):
        assert torch.equal(spread(z, 4), e)
    with torch_seed("test"):
        assert spread(torch.zeros(3, 2), 8).shape == (8, 2)  # fewer points than codes


def test_dead_codes_go_where_pictures_are_and_no_other_moves():
    e, n = torch.full((4, 2), 100.0), torch.ones(4)
    e[0] = 0
    m, z = e.clone(), torch.cat([torch.zeros(50, 2), torch.tensor([[5.0, 5.0]])])
    d = distances(z, e).min(dim=1).values
    dead = torch.tensor([False, False, True, False])
    with torch_seed("test"):
        revive(e, n, m, z, dead, d)
    assert e[2].tolist() == [5, 5] and e[0].tolist() == [0, 0] and e[1].tolist() == [100, 100]
    assert torch.allclose(m[2] / n[2], e[2])
    e[2:] = 100
    with torch_seed("test"):  # more dead codes than places: each place gets one
        revive(e, n, m, torch.cat([z, z]), torch.tensor([False, False, True, True]), d.repeat(2))
    assert sorted(e[2:].tolist()) == [[5, 5], [100, 100]]


def test_training_brings_unused_codes_back():
    """With a codebook far away from everything but one code, all of them are soon in use."""
    network, x = tiny(), pictures(8)
    with torch_seed("test"):
        network.train()
        network(x)
        network.e[1:] += 1000
        network.m.copy_(network.e * network.n[:, None])
        network.quantizer.revive_every = 10**9
        for _ in range(6):
            network(x)
        assert (network.idle < 3 * 8).float().mean() < 0.2  # control: without it they stay away
        network.quantizer.revive_every = 3
        for _ in range(12):
            network(x)
    assert (network.idle < 3 * 8).float().mean() > 0.6


def test_an_encoder_that_came_first_rests_when_there_are_codes():
    """Steps without codes are an autoencoder's; then every patch that differs has a code of its own
    as soon as it was seen, and the decoder learns alone."""
    network, x = tiny(local=True, codes=64, channels=32, dimensions=16), pictures(8)
    network.quantizer, network.start = QuantizerConfig(revive_every=50), 2
    encoder = [*network.encoder.parameters()]
    with torch_seed("test"):
        network.train()
        for step in range(6):
            out = network(x)
            network.zero_grad()
            (out.x_hat - x).square().mean().backward()
            assert all(bool(p.grad.any()) == (step < 2) for p in encoder)
            assert all(p.grad is not None for p in network.decoder.parameters())
            assert bool(network.n.any()) == (step >= 2)
            if step < 2:
                assert torch.equal(out.e_id, out.z)
    patches = torch.nn.functional.pixel_unshuffle(x, 4).flatten(2).transpose(1, 2).flatten(0, 1)
    distinct = len(patches.unique(dim=0))
    assert 10 < distinct <= 64
    network.eval()
    assert len(network.encode(x).unique()) == distinct
    assert torch.allclose(network(x).e_id, network(x).z, atol=1e-4)


def test_evaluation_leaves_the_codebook_alone():
    network = tiny()
    with torch_seed("test"):
        network.train()(pictures(4))
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        network.eval()(pictures(4))
        assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
        network.train()(pictures(4))
    assert not torch.equal(before["e"], network.e)


@pytest.mark.parametrize("multipliers", [(1,), (1, 2)])
@pytest.mark.parametrize("local", [True, False])
def test_a_token_of_a_local_encoder_depends_on_its_own_pixels_alone(
    local: bool, multipliers: tuple[int, ...]
) -> None:
    with torch_seed(0):
        network = tiny(local=local, multipliers=multipliers, patch_size=2).eval()
    x = pictures(1)
    changed = x.clone()
    side = network.config.factor
    changed[..., :side, :side] = 1
    with torch.no_grad():
        a, b = network.features(x), network.features(changed)
    moved = (a - b).abs().amax(dim=(0, 2)) > 1e-6  # [N]
    assert moved[0] and bool(moved[1:].any()) is not local


def test_ids_mean_the_codes_the_decoder_was_given(tokenizer):
    """ids -> codebook is what the way through the encoder gave, bit for bit."""
    network, x = tokenizer.network, pictures(4)
    with torch.no_grad():
        out = VQ.forward(network, x)
    ids = tokenizer.encode(x)
    assert torch.equal(ids, out.ids) and ids.shape == (4, 64)
    assert torch.equal(network.e[ids], out.e_id)
    assert torch.allclose(tokenizer.decode(ids), out.x_hat.clamp(-1, 1), atol=1e-6)
    assert tokenizer.decode(ids).shape == x.shape
    one = torch.cat([tokenizer.encode(row[None]) for row in x])
    assert torch.equal(one, ids)  # whatever the batch


def test_a_run_is_a_tokenizer_and_its_folder_is_the_same(run, tokenizer, tmp_path):
    assert (tokenizer.kind, tokenizer.size, tokenizer.length) == ("vq", 16, 64)
    tokenizer.save(tmp_path / "t")
    again = load(tmp_path / "t")
    assert again.hash == tokenizer.hash == find_tokenizer(str(run)).hash
    assert torch.equal(again.encode(pictures(2)), tokenizer.encode(pictures(2)))
    data = bytearray((tmp_path / "t" / "vq.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "t" / "vq.safetensors").write_bytes(data)
    with pytest.raises(BadCheckpointError, match="SHA-256"):
        load(tmp_path / "t")


def test_another_codebook_is_another_hash(tokenizer, run):
    other = tiny()
    config = build(Config, {"model": {"patch_size": 4, "multipliers": [1], "norm_groups": 4}})
    with torch_seed("test"):
        other.train()(pictures(2))
    made = tokenizer_of(other, other.config, config.data)
    assert made.hash != tokenizer.hash


def test_the_log_tells_of_the_codebook_and_training_helps(run):
    records = [r for r in log_of(run) if "loss" in r]
    assert {"reconstruction", "commitment", "entropy", "codebook_usage"} <= records[-1].keys()
    assert 1 <= records[-1]["codebook_perplexity"] <= 16
    assert records[-1]["reconstruction"] < 0.7 * records[0]["reconstruction"]
    assert (run / "samples" / "step-00000020.png").is_file()


def test_a_cut_run_ends_in_the_same_bytes(cli, recipe, run, tmp_path):
    """The codebook and its averages are part of the state."""
    out = tmp_path / "run"
    arguments = ("train", "vq", "--recipe", recipe, "--out", out)
    assert cli(*arguments, "--stop-at", 7).code == 0
    state = load_file(out / "state/step-00000007/model.safetensors")
    assert {"e", "n", "m", "idle", "seen"} <= state.keys() and int(state["seen"]) == 7 * 4
    assert cli(*arguments, "--resume", "latest").code == 0
    assert weights_of(out) == weights_of(run) and log_of(out) == log_of(run)


def test_an_encoder_at_rest_is_not_moved_by_momentum(cli, recipe, tmp_path):
    out = tmp_path / "run"
    settings = ("quantizer.start=0.5", "quantizer.entropy=0", "train.optimizer=muon")
    more = [word for text in settings for word in ("--set", text)]
    assert cli("train", "vq", "--recipe", recipe, "--out", out, *more).code == 0
    before, after = (
        load_file(out / f"state/step-000000{step}/model.safetensors") for step in (10, 20)
    )
    assert not before["n"].any() and after["n"].all()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith("encoder."), name
    stopped = tmp_path / "stopped"
    assert cli("train", "vq", "--recipe", recipe, "--out", stopped, *more, "--stop-at", 5).code == 0
    with pytest.raises(BadCheckpointError, match="no codes yet: it stands at step 5"):
        find_tokenizer(str(stopped))
    warm, *_, last = [record for record in log_of(out) if "loss" in record]
    assert "codebook_usage" not in warm and last["codebook_usage"] > 0


def test_collapse_is_told():
    backend, network = Backend(Config()), tiny()
    network.n.fill_(1)
    assert backend.watch(network)[1] == ""
    network.idle[1:] = 1000
    figures, warning = backend.watch(network)
    assert figures["codebook_usage"] == 1 / 16 and "collapses: 1 of 16" in warning


def test_tokenizer_train_is_the_same_run(cli, recipe, run, tmp_path):
    out = tmp_path / "tokens"
    result = cli(
        "tokenizer", "train", "--kind", "vq", "--data", "scenes", "--out", out,
        "--set", "model.patch_size=4", "--set", "model.channels=8", "--set", "model.middle=0",
        "--set", "model.multipliers=[1]", "--set", "model.norm_groups=4", "--size", 16,
        "--set", "train.steps=2", "--set", "train.sample_every=0", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert result.records[-1]["kind"] == "vq" and result.records[-1]["size"] == 16
    assert find_tokenizer(str(out)).hash == result.records[-1]["hash"]
    shown = cli("tokenizer", "show", out, "--json").records[0]
    assert shown["specials"] == {} and shown["size"] == 16


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(UsageError, match="image_size 30 is not a multiple of 16"):
        build(Config, {"data": {"image_size": 30}})
    with pytest.raises(UsageError, match="norm_groups"):
        build(Config, {"model": {"channels": 8}})
    with pytest.raises(UsageError, match=r"quantizer\.entropy 0\.1 would do nothing"):
        build(Config, {"quantizer": {"start": 0.5}})


def test_the_defaults_are_maskgits():
    with torch.device("meta"):
        network = VQ(Config().model, 3)
    count = sum(p.numel() for p in network.parameters())
    assert Config().model.factor == 16 and (Config().model.codes, Config().model.dimensions) == (
        1024,
        256,
    )
    # Convolutions of the encoder and decoder of Chang et al.'s code, without their codebook.
    assert 50e6 < count < 60e6


def test_an_untrained_tokenizer_shows_no_scenes():
    """The control of the read-back share: what is measured is not given by the architecture."""
    network = tiny()
    with torch_seed("test"):
        network.train()(pictures(4))
    x_hat = network.eval().decode(network.encode(pictures(8))).clamp(-1, 1)
    assert not any(read_scene(image) for image in x_hat.detach().numpy())


def test_wrong_input(cli, recipe, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    result = cli("train", "vq", "--recipe", recipe, "--out", tmp_path / "run")
    assert result.code == 2 and "already holds a run" in result.err
    result = cli("train", "vq", "--recipe", recipe, "--set", "data.image_size=30", "--dry-run")
    assert result.code == 2 and "multiple of 4" in result.err


def test_pictures_to_ids_and_back_from_the_shell(cli, run, tokenizer, tmp_path):
    names = []
    for i, x in enumerate(pictures(2)):
        names.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(to_uint8(x[None])[0]).save(names[-1])
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    result = cli("tokenizer", "encode", tmp_path / "names.txt", "-t", run)
    ids = [[int(word) for word in line.split()] for line in result.out.splitlines()]
    assert ids == tokenizer.encode(pictures(2)).tolist()
    (tmp_path / "ids.txt").write_text(result.out)
    out = tmp_path / "again.npy"
    assert cli("tokenizer", "decode", tmp_path / "ids.txt", "-t", run, "--out", out).code == 0
    assert np.allclose(np.load(out), tokenizer.decode(torch.tensor(ids)).numpy(), atol=1e-6)
    (tmp_path / "ids.txt").write_text("1 2 3\n")
    result = cli("tokenizer", "decode", tmp_path / "ids.txt", "-t", run, "--out", out)
    assert result.code == 4 and "3 ids, a picture has 64" in result.err


def test_ids_without_a_target_become_a_new_picture(cli, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids").write_text(" ".join(["0"] * 64) + "\n")
    for name in ("decoded.png", "decoded-2.png"):
        assert cli("tokenizer", "decode", "ids", "-t", run).out == f"{name}\n"
    assert {path.name for path in tmp_path.glob("*.png")} == {"decoded.png", "decoded-2.png"}
