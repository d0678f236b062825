"""ddpm: its algorithm against oracles, the U-Net, and that sample i is always the same image."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gentool.backends.ddpm import Config, ModelConfig, SampleConfig
from gentool.backends.ddpm.algorithm import denoiser, loss_weight, training_loss
from gentool.backends.ddpm.backend import Backend
from gentool.backends.ddpm.network import Attention, UNet
from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import ancestral, ddim, dpm_solver_pp
from gentool.diffusion.schedules import SCHEDULES, linear_betas
from gentool.errors import UsageError
from gentool.nn.time import timestep_features
from gentool.rng import BatchRng, generator, seed_of, torch_seed
from gentool.sampling import draw_samples, sample_settings
from gentool.settings import build, to_tree

T = 50
TINY = {"channels": 8, "multipliers": [1], "blocks": 1, "attention": [], "norm_groups": 4}
STEPS = SampleConfig(steps=T)
PREDICTIONS = ["eps", "x_0", "v"]


def config(size: int = 8, image_channels: int = 3, **model: object) -> Config:
    data = {"image_size": size, "channels": image_channels}
    tree = {"data": data, "model": TINY | model, "diffusion": {"T": T}, "sample": {"steps": T}}
    return build(Config, tree)


def unet(**model: object) -> UNet:
    return randomised(UNet(config(16, **model).model, 3, 16))


def randomised(network: nn.Module) -> Any:
    """The network with no weight left at zero, in evaluation mode."""
    rng = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=rng)
    return network.eval()


@pytest.fixture(scope="module")
def backend() -> Backend:
    return Backend(config())


@pytest.fixture(scope="module")
def network(backend: Backend) -> nn.Module:
    with torch_seed("test"):
        return randomised(backend.network())


@pytest.fixture(scope="module")
def drawn(backend: Backend, network: nn.Module) -> Tensor:
    return backend.draw(network, BatchRng.for_samples(3, range(7)), STEPS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def as_predicted(chain: Gaussian, x_0: Tensor, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
    return {"eps": eps, "x_0": x_0, "v": chain.v(x_0, t, eps)}


def test_a_network_that_answers_zero_has_a_loss_of_1_per_example() -> None:
    chain, rng = Gaussian(linear_betas(1000)), BatchRng.for_samples(0, range(300))
    t, eps = rng.integers(1000), rng.normal(3, 8, 8)
    assert (t // 200).bincount(minlength=5).tolist() == pytest.approx([60] * 5, abs=25)
    loss = training_loss(lambda x_t, _: 0 * x_t, normal(300, 3, 8, 8), t, eps, chain)["simple"]
    assert loss.shape == (300,)
    assert loss.mean().item() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(loss, eps.square().mean(dim=(1, 2, 3)))


def test_the_network_sees_x_t_of_each_examples_own_step() -> None:
    chain, t = Gaussian(linear_betas(1000)), torch.tensor([0, 400, 999])
    x_0, eps, seen = normal(3, 3, 4, 4), normal(3, 3, 4, 4, seed=1), []

    def oracle(x_t: Tensor, told: Tensor) -> Tensor:
        seen.append((x_t, told))
        return eps

    assert training_loss(oracle, x_0, t, eps, chain)["simple"].tolist() == [0, 0, 0]
    ((x_t, told),) = seen
    assert torch.equal(told, t) and torch.equal(x_t, chain.q_sample(x_0, t, eps))


@pytest.mark.parametrize(
    "schedule, prediction",
    [("linear", "eps"), ("cosine", "eps"), ("cosine", "v"), ("cosine", "x_0")],
)
def test_every_kl_term_of_the_oracle_is_0(schedule: str, prediction: str) -> None:
    """Told the truth, the model's mean is the posterior's at every t."""
    chain = Gaussian(SCHEDULES[schedule](1000))
    x_0, eps = normal(2, 1, 2, 2).double().clamp(-1, 1), normal(2, 1, 2, 2, seed=1).double()
    denoise = denoiser(lambda _, t: as_predicted(chain, x_0, t, eps)[prediction], chain, prediction)
    for t in range(chain.T):
        x_t = chain.q_sample(x_0, t, eps)
        mean, variance = chain.q_posterior(x_0, x_t, t)
        model_mean, model_variance = chain.q_posterior(denoise(x_t, t).x_0, x_t, t)
        torch.testing.assert_close(model_mean, mean, rtol=0, atol=1e-9)
        assert torch.equal(model_variance, variance)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("loss", PREDICTIONS)
def test_the_loss_is_the_error_in_what_was_asked_for(loss: str, prediction: str) -> None:
    """Whatever the network returns: the same guess of x_0 has the same loss."""
    chain, t = Gaussian(linear_betas(1000)), torch.tensor([0, 100, 500, 999])
    x_0, x_0_hat, eps = (normal(4, 3, 8, 8, seed=i).double() for i in range(3))
    eps_hat = chain.eps_from_x_0(chain.q_sample(x_0, t, eps), t, x_0_hat)
    truth, guess = as_predicted(chain, x_0, t, eps), as_predicted(chain, x_0_hat, t, eps_hat)
    options = {"prediction": prediction, "loss": loss}
    got = training_loss(lambda *_: guess[prediction], x_0, t, eps, chain, **options)["simple"]
    expected = (truth[loss] - guess[loss]).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(got, expected)


def test_min_snr_caps_the_weight_of_little_noise() -> None:
    chain = Gaussian(linear_betas(1000))
    snr = chain.alpha_bar / (1 - chain.alpha_bar)
    for prediction, own in {"x_0": 1, "eps": snr, "v": snr + 1}.items():
        expected = snr.clamp(max=5) / own
        torch.testing.assert_close(loss_weight(chain, prediction, "eps", 5.0), expected)


def test_the_backend_trains_and_draws_what_the_recipe_says(network: nn.Module) -> None:
    other = config()
    other.diffusion.prediction, other.diffusion.loss, other.diffusion.snr_limit = "v", "x_0", 0.5
    backend, t = Backend(other), torch.tensor([1, 40])
    x_0, eps = normal(2, 3, 8, 8), normal(2, 3, 8, 8, seed=1)
    options = {"prediction": "v", "loss": "x_0", "snr_limit": 0.5}
    expected = training_loss(network, x_0, t, eps, backend.chain, **options)
    got = backend.loss(network, {"x_0": x_0, "t": t, "eps": eps})
    assert list(got) == ["simple"] and torch.equal(got["simple"], expected["simple"])
    rng, one = BatchRng.for_samples(0, [0]), backend.chain.respaced(1)
    got = backend.draw(network, BatchRng.for_samples(0, [0]), SampleConfig(steps=1))
    with torch.no_grad():
        expected = denoiser(network, one, "v")(rng.normal(3, 8, 8), 0).x_0
        torch.testing.assert_close(got, expected)


def test_x_0_is_clipped_to_the_range_of_images() -> None:
    chain = Gaussian(linear_betas(1000))
    x_t = torch.tensor([-3.0, -0.5, 0.5, 3.0]).reshape(1, 1, 2, 2)
    x_0 = denoiser(lambda x, _: torch.zeros_like(x), chain)(x_t, 0).x_0
    torch.testing.assert_close(x_0.flatten(), torch.tensor([-1, -0.500025, 0.500025, 1]))


def test_a_few_steps_of_training_lower_the_loss(backend: Backend) -> None:
    with torch_seed("test"):
        network = backend.network()
    rng = torch.Generator().manual_seed(0)
    x_0 = normal(2, 3, 8, 8).sign().repeat(8, 1, 1, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        t = torch.randint(T, (16,), generator=rng)
        eps = torch.randn(x_0.shape, generator=rng)
        loss = backend.loss(network, {"x_0": x_0, "t": t, "eps": eps})["simple"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1, abs=0.1)
    assert np.mean(losses[-5:]) < 0.75


def test_the_default_network_has_the_papers_parameters() -> None:
    network = UNet(ModelConfig(), 3, 32)
    assert sum(p.numel() for p in network.parameters()) == 35_746_307


VARIANTS = [
    {},
    {"patch_size": 2},
    {"patch_size": 4},
    {"multipliers": [1, 2, 3], "blocks": 2, "attention": [8, 4], "head_channels": 4},
    {"attention": [16], "dropout": 0.5},
    {"channels": 12, "norm_groups": 3, "head_channels": 6, "multipliers": [2, 1]},
]


@pytest.mark.parametrize("image_channels", [1, 3])
@pytest.mark.parametrize("model", VARIANTS, ids=str)
def test_the_network_begins_at_0_and_keeps_the_shape(
    model: dict[str, Any], image_channels: int
) -> None:
    network = UNet(config(16, image_channels, **model).model, image_channels, 16)
    x_t, t = normal(2, image_channels, 16, 16), torch.tensor([0, 49])
    assert torch.equal(network(x_t, t), torch.zeros_like(x_t))
    eps_hat = randomised(network)(x_t, t)
    assert eps_hat.shape == x_t.shape and eps_hat.isfinite().all() and eps_hat.std() > 0.05


@pytest.mark.parametrize("model", VARIANTS, ids=str)
def test_every_weight_is_used(model: dict[str, object]) -> None:
    network = unet(**model)
    network(normal(4, 3, 16, 16), torch.arange(4)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if not p.grad.any()] == []


def test_the_network_is_told_the_step_of_each_example() -> None:
    network, x_t = unet(), normal(1, 3, 16, 16).repeat(2, 1, 1, 1)
    same, other = network(x_t, torch.tensor([7, 7])), network(x_t, torch.tensor([7, 40]))
    torch.testing.assert_close(other[0], same[0])
    assert (other[1] - same[1]).abs().max() > 1e-3


def test_steps_become_sines_and_cosines() -> None:
    frequencies = 10_000.0 ** (-np.arange(4) / 3)
    angles = np.array([[0.0], [1.0], [999.0]]) * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    got = timestep_features(torch.tensor([0, 1, 999]), 8)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_softmax_of_scaled_products(heads: int) -> None:
    model = ModelConfig(channels=8, norm_groups=4, head_channels=8 // heads)
    layer, x = randomised(Attention(8, model)), normal(2, 8, 3, 5)
    q, k, v = layer.qkv(layer.norm(x).reshape(2, 8, 15).mT).chunk(3, dim=-1)
    rows = []
    for part in torch.arange(8).chunk(heads):
        weights = (q[..., part] @ k[..., part].mT / math.sqrt(len(part))).softmax(dim=-1)
        rows.append(weights @ v[..., part])
    expected = x + layer.out(torch.cat(rows, dim=-1)).mT.reshape(x.shape)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("patch_size, at, count", [(1, 16, 4), (1, 8, 4), (2, 8, 4), (2, 16, 1)])
def test_attention_is_at_the_resolutions_asked_for(patch_size: int, at: int, count: int) -> None:
    """One block down and two up at that level, and the one in the middle."""
    network = unet(multipliers=[1, 1], attention=[at], patch_size=patch_size)
    assert sum(isinstance(module, Attention) for module in network.modules()) == count


def test_dropout_is_for_training_alone() -> None:
    network, x_t, t = unet(dropout=0.5), normal(1, 3, 16, 16), torch.tensor([3])
    assert torch.equal(network(x_t, t), network(x_t, t))
    with torch_seed("test"):
        network.train()
        assert not torch.equal(network(x_t, t), network(x_t, t))


@pytest.mark.parametrize(
    "size, model, named",
    [
        (10, {"multipliers": [1, 1, 1]}, "data.image_size 10 is not a multiple of 4"),
        (12, {"multipliers": [1, 1], "patch_size": 4}, "data.image_size 12 is not a multiple of 8"),
        (8, {"norm_groups": 3}, "model.norm_groups 3"),
        (8, {"head_channels": 3}, "model.head_channels 3"),
    ],
)
def test_a_network_that_cannot_be_built_is_a_usage_error(
    size: int, model: dict[str, object], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        Backend(config(size, **model))


def test_a_sample_draws_the_same_bits_in_any_batch() -> None:
    def draws(indices: Sequence[int]) -> list[Tensor]:
        rng = BatchRng.for_samples(3, indices)
        assert len(rng) == len(indices)
        return [rng.normal(3, 8, 8), rng.integers(1000), rng.normal(5)]

    alone = draws([5])
    for indices in (range(7), [5, 2], [6, 0, 5]):
        for own, batched in zip(alone, draws(indices), strict=True):
            assert torch.equal(own[0], batched[list(indices).index(5)])


def test_another_index_seed_or_purpose_draws_otherwise() -> None:
    names = [("sample", 0, 1), ("sample", 1, 0), ("sample", 0, 2), ("train", 0, 1), ("sample", 1)]
    names += [("sample", 1, 23), ("sample", 12, 3)]
    draws = {tuple(torch.randn(4, generator=generator(*name)).tolist()) for name in names}
    assert len(draws) == len(names)
    a, b = BatchRng.for_samples(0, [1, 2]).normal(4)
    assert not torch.equal(a, b)
    assert torch.equal(torch.randn(4, generator=generator("sample", 0, 1)), a)


def test_seeds_are_those_of_earlier_versions() -> None:
    assert seed_of("sample", 0, 0) == 6524909286577025198


def test_torch_seed_puts_the_global_state_back() -> None:
    before = torch.get_rng_state()
    with torch_seed("init", 0):
        first = torch.randn(4)
    with pytest.raises(KeyError), torch_seed("init", 1):
        assert not torch.equal(torch.randn(4), first)
        raise KeyError
    with torch_seed("init", 0):
        assert torch.equal(torch.randn(4), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_training_example_has_its_own_step_and_noise(backend: Backend) -> None:
    examples = [SimpleNamespace(image=normal(3, 8, 8, seed=i)) for i in range(4)]
    batch = backend.collate(examples, BatchRng([generator("example", i) for i in range(4)]))
    alone = backend.collate(examples[2:3], BatchRng([generator("example", 2)]))
    assert batch["eps"].shape == (4, 3, 8, 8) and batch["t"].shape == (4,)
    assert torch.equal(alone["x_0"][0], examples[2].image)
    assert all(torch.equal(alone[key][0], batch[key][2]) for key in ("x_0", "t", "eps"))


@pytest.mark.parametrize("batch_size, indices", [(1, range(7)), (3, range(7)), (2, [5])])
def test_a_sample_is_the_same_image_in_any_batch(
    backend: Backend, network: nn.Module, drawn: Tensor, batch_size: int, indices: Sequence[int]
) -> None:
    loaded: Any = SimpleNamespace(backend=backend, network=network)
    heard: list[tuple[int, int]] = []
    options = {"batch_size": batch_size, "device": "cpu", "progress": lambda *a: heard.append(a)}
    batches = list(draw_samples(loaded, indices, 3, STEPS, **options))
    assert [i for numbers, _ in batches for i in numbers] == list(indices)
    total = math.ceil(len(indices) / batch_size) * T
    assert heard == [(i + 1, total) for i in range(total)]
    images = torch.cat([images for _, images in batches])
    assert images.dtype == torch.float32 and images.abs().max() <= 1
    assert (images.abs() < 0.99).float().mean() > 0.3  # not merely black and white
    torch.testing.assert_close(images, drawn[list(indices)], rtol=0, atol=1e-3)


def test_the_same_call_gives_the_same_bytes_and_another_seed_does_not(
    backend: Backend, network: nn.Module, drawn: Tensor
) -> None:
    network.train()  # as in the middle of training: dropout must not be drawn
    assert torch.equal(backend.draw(network, BatchRng.for_samples(3, range(7)), STEPS), drawn)
    other = backend.draw(network, BatchRng.for_samples(4, range(7)), STEPS)
    assert (other - drawn).abs().amax(dim=(1, 2, 3)).min() > 0.1


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm++"])
@pytest.mark.parametrize("spacing, first", [("trailing", 4), ("leading", 0)])
def test_with_fewer_steps_the_network_is_told_the_original_ones(
    backend: Backend, network: nn.Module, sampler: str, spacing: str, first: int
) -> None:
    told: list[list[int]] = []
    hook = network.register_forward_pre_hook(lambda _, inputs: told.append(inputs[1].tolist()))
    backend.draw(network, BatchRng.for_samples(0, [0, 1]), SampleConfig(10, sampler, spacing))
    hook.remove()
    assert told == [[t, t] for t in range(first + 45, -1, -5)]


@pytest.mark.parametrize(
    "sampler, options",
    [
        (ancestral, {}),
        (ancestral, {"variance": "fixed_small"}),
        (ancestral, {"noise_scale": 0.5}),
        (ddim, {}),
        (ddim, {"eta": 0.5, "noise_scale": 0.5}),
        (dpm_solver_pp, {}),
        (dpm_solver_pp, {"eta": 0.5, "noise_scale": 0.5}),
    ],
)
def test_the_options_reach_the_sampler(
    backend: Backend, network: nn.Module, sampler: Any, options: dict[str, Any]
) -> None:
    name = {ancestral: "ancestral", ddim: "ddim", dpm_solver_pp: "dpm++"}[sampler]
    sample = SampleConfig(steps=9, sampler=name, spacing="leading", **options)
    got = backend.draw(network, BatchRng.for_samples(0, [0]), sample)
    rng, chain = BatchRng.for_samples(0, [0]), Gaussian(linear_betas(T)).respaced(9, "leading")
    arguments = [denoiser(network, chain), rng.normal(3, 8, 8), chain, rng]
    with torch.no_grad():
        x_0 = sampler(*arguments, **options)
    assert torch.equal(got, x_0.clamp(-1, 1))


def test_options_not_given_are_those_of_the_checkpoint() -> None:
    stored = SampleConfig(steps=30, sampler="ddim")
    loaded: Any = SimpleNamespace(
        config=Config(sample=stored),
        run_config=SimpleNamespace(config={"sample": to_tree(stored)}),
        backend=SimpleNamespace(most_steps=T),
    )
    assert sample_settings(loaded, {"eta": 1.0}) == SampleConfig(30, "ddim", eta=1.0)
    with pytest.raises(UsageError, match="--eta must be at least 0.0, got -2"):
        sample_settings(loaded, {"eta": -2.0})
    with pytest.raises(UsageError, match=f"--steps {T + 1}: this model takes {T} at the most"):
        sample_settings(loaded, {"steps": T + 1})
