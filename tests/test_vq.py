"""The tokenizer of pictures: its quantiser and its network."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gentool.data.scenes import Scenes, read_scene
from gentool.errors import UsageError
from gentool.rng import torch_seed
from gentool.settings import build
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


def test_collapse_is_told():
    backend, network = Backend(Config()), tiny()
    network.n.fill_(1)
    assert backend.watch(network)[1] == ""
    network.idle[1:] = 1000
    figures, warning = backend.watch(network)
    assert figures["codebook_usage"] == 1 / 16 and "collapses: 1 of 16" in warning


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(UsageError, match="image_size 30 is not a multiple of 16"):
        build(Config, {"data": {"image_size": 30}})
    with pytest.raises(UsageError, match="norm_groups"):
        build(Config, {"model": {"channels": 8}})
    with pytest.raises(UsageError, match=r"quantizer\.entropy 0\.1 would do nothing"):
        build(Config, {"quantizer": {"start": 0.5}})


def test_the_default_network_has_the_size_of_maskgits():
    with torch.device("meta"):
        network = VQ(Config().model, 3)
    count = sum(p.numel() for p in network.parameters())
    assert Config().model.factor == 16
    # Convolutions of the encoder and decoder of Chang et al.'s code, without their codebook.
    assert 50e6 < count < 60e6


def test_an_untrained_tokenizer_shows_no_scenes():
    """The control of the read-back share: what is measured is not given by the architecture."""
    network = tiny()
    with torch_seed("test"):
        network.train()(pictures(4))
    x_hat = network.eval().decode(network.encode(pictures(8))).clamp(-1, 1)
    assert not any(read_scene(image) for image in x_hat.detach().numpy())
