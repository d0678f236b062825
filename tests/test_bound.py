"""The variational bound and the objectives made of it, against known figures and by hand."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensors import normal
from torch import Tensor, nn

from gentool.backends.ddpm import Config, SampleConfig
from gentool.backends.ddpm.algorithm import LAMBDA, training_loss
from gentool.backends.ddpm.backend import Backend
from gentool.diffusion.bound import discretized_log_likelihood, kl_normal, prior_term, step_term
from gentool.diffusion.gaussian import VARIANCES, Gaussian
from gentool.diffusion.schedules import SCHEDULES, cosine_betas, linear_betas
from gentool.errors import UsageError
from gentool.rng import BatchRng, generator, torch_seed
from gentool.settings import build

SHAPE = (2, 3, 4, 4)
LEVELS = (torch.arange(256, dtype=torch.float64) / 127.5 - 1)[:, None]
FIXED = ["fixed_large", "fixed_small"]


def pixels(*shape: int, low: int = 1, high: int = 255) -> Tensor:
    """8-bit values from `low` to below `high`, scaled to [-1, 1]."""
    rng = torch.Generator().manual_seed(0)
    return torch.randint(low, high, shape, generator=rng).double() / 127.5 - 1


def bits(nats: Any) -> Any:
    return nats / math.log(2)


def phi(z: float) -> float:
    """The cumulative standard normal distribution."""
    return math.erfc(-z / math.sqrt(2)) / 2


# --- the terms


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_told_the_truth_every_kl_is_0(schedule: str) -> None:
    chain, x_0, eps = Gaussian(SCHEDULES[schedule](1000)), pixels(1000, 48), normal(1000, 48)
    t = torch.arange(chain.T)
    x_t = chain.q_sample(x_0, t, eps)
    assert not step_term(chain, x_0, x_t, t, x_0, "fixed_small")[1:].any()
    x_0_hat = chain.x_0_from_eps(x_t, t, eps)
    assert float(step_term(chain, x_0, x_t, t, x_0_hat, "fixed_small")[1:].abs().max()) < 1e-9


@pytest.mark.parametrize("variance", FIXED)
def test_told_the_truth_l_0_is_what_the_last_variance_leaves(variance: str) -> None:
    """sigma^2 = beta_tilde_1 = 5.45319e-5: 1.305 bits in the interior, 0.51 on the two ends."""
    chain, t = Gaussian(linear_betas(1000)), torch.tensor([0])
    for x_0, expected in [
        (pixels(1, 3, 4, 4), 1.3054),
        (torch.ones(1, 3, 4, 4).double(), 0.50980),
        (-torch.ones(1, 3, 4, 4).double(), 0.50980),
    ]:
        eps = normal(*x_0.shape)
        x_t = chain.q_sample(x_0, 0, eps)
        x_0_hat = chain.x_0_from_eps(x_t, 0, eps)
        got = step_term(chain, x_0, x_t, t, x_0_hat, variance).item()
        assert got == pytest.approx(expected, abs=1e-4)


def test_the_prior_term_is_small_and_the_kl_by_hand() -> None:
    chain, x_0 = Gaussian(linear_betas(1000)), pixels(5, 3, 8, 8, low=0, high=256)
    alpha_bar = chain.alpha_bar[-1].item()
    mean = np.sqrt(alpha_bar) * x_0.numpy()
    expected = bits((-np.log(1 - alpha_bar) + 1 - alpha_bar + mean**2 - 1) / 2)
    for dtype, tolerance in [(torch.float64, 1e-9), (torch.float32, 1e-3)]:
        got = prior_term(chain, x_0.to(dtype))
        assert got.shape == (5,) and 0 < got.max() < 1e-4
        np.testing.assert_allclose(got, expected.mean(axis=(1, 2, 3)), rtol=tolerance)
    fewer = prior_term(chain.respaced(10, "leading"), x_0)  # which ends at step 900
    assert float(fewer.min()) > 3 * float(got.max())


def test_the_kl_of_normals_is_its_integral() -> None:
    x = np.linspace(-15, 15, 20_001)

    def log_density(mean: float, variance: float) -> Any:
        return -((x - mean) ** 2) / (2 * variance) - math.log(2 * math.pi * variance) / 2

    for m1, v1, m2, v2 in [(0.0, 1.0, 0.0, 1.0), (0.3, 0.5, -1.0, 2.0), (2.0, 3.0, 0.0, 0.7)]:
        p, q = log_density(m1, v1), log_density(m2, v2)
        expected = np.sum(np.exp(p) * (p - q)) * (x[1] - x[0])
        numbers = torch.tensor([m1, math.log(v1), m2, math.log(v2)], dtype=torch.float64)
        assert kl_normal(*numbers).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("mean", [-1.2, -1.0, -0.3, 0.0012, 0.99, 1.3])
@pytest.mark.parametrize("sigma", [3e-3, 0.1, 2.0])
def test_the_256_levels_have_probability_1(mean: float, sigma: float) -> None:
    log_variance = torch.tensor(2 * math.log(sigma), dtype=torch.float64)
    got = discretized_log_likelihood(
        LEVELS, torch.tensor(mean, dtype=torch.float64), log_variance
    ).exp()
    assert got.sum().item() == pytest.approx(1, abs=1e-9)
    for level in (0, 1, 100, 254, 255):
        x = level / 127.5 - 1
        above = 1.0 if level == 255 else phi((x + 1 / 255 - mean) / sigma)
        below = 0.0 if level == 0 else phi((x - 1 / 255 - mean) / sigma)
        assert got[level].item() == pytest.approx(max(above - below, 1e-12), rel=1e-6, abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_tails_of_the_decoder_are_alike(dtype: torch.dtype) -> None:
    """Six deviations above the mean as below it, where 1 - p would be rounded away."""
    x = LEVELS[28:228].to(dtype)
    mean, log_variance = torch.zeros(1, dtype=dtype), torch.tensor(-4.0, dtype=dtype)
    up = discretized_log_likelihood(x, mean + 0.1, log_variance)
    down = discretized_log_likelihood(-x, mean - 0.1, log_variance)
    torch.testing.assert_close(up, down, rtol=1e-4, atol=1e-4)
    assert bool((up.diff(dim=0)[120:] < 0).all()) and float(up.min()) > math.log(1e-12)


def test_an_impossible_value_costs_no_more_than_40_bits() -> None:
    x, mean = torch.zeros(1, 4), torch.full((1, 4), 0.9, requires_grad=True)
    got = discretized_log_likelihood(x, mean, torch.tensor(-12.0))
    assert got.tolist()[0] == pytest.approx([math.log(1e-12)] * 4)
    got.sum().backward()
    assert mean.grad is not None and bool(mean.grad.isfinite().all())


@pytest.mark.parametrize("schedule, steps", [("linear", 1000), ("linear", 50), ("cosine", 200)])
def test_a_step_with_a_fixed_variance_is_eq_12(schedule: str, steps: int) -> None:
    """beta^2 / (2 sigma^2 alpha (1 - alpha_bar)) |eps - eps_hat|^2, and what sigma costs."""
    chain = Gaussian(SCHEDULES[schedule](1000)).respaced(steps)
    x_0, eps, eps_hat = pixels(steps, 6), normal(steps, 6), normal(steps, 6, seed=1)
    t = torch.arange(steps)
    x_t = chain.q_sample(x_0, t, eps)
    x_0_hat = chain.x_0_from_eps(x_t, t, eps_hat)
    beta, alpha_bar = chain.beta.numpy(), np.cumprod(1 - chain.beta.numpy())
    tilde = beta * (1 - np.append(1, alpha_bar[:-1])) / (1 - alpha_bar)
    squared = (eps - eps_hat).square().mean(dim=1).numpy()
    for variance, sigma2 in (("fixed_small", tilde), ("fixed_large", beta)):
        got = step_term(chain, x_0, x_t, t, x_0_hat, variance).numpy()
        ratio = tilde[1:] / sigma2[1:]
        expected = (beta**2 / (1 - beta) / (1 - alpha_bar) * squared)[1:] / (2 * sigma2[1:])
        expected = bits(expected + (ratio - 1 - np.log(ratio)) / 2)
        np.testing.assert_allclose(got[1:], expected, rtol=1e-6, atol=1e-9)


def test_the_terms_of_a_batch_are_those_of_each(chain_40: Gaussian) -> None:
    x_0, x_t, x_0_hat, v = (normal(3, 3, 4, 4, seed=i) for i in range(4))
    t = torch.tensor([0, 5, 39])
    whole = step_term(chain_40, x_0, x_t, t, x_0_hat, "learned_range", v)
    for i in range(3):
        one = slice(i, i + 1)
        alone = step_term(
            chain_40, x_0[one], x_t[one], t[one], x_0_hat[one], "learned_range", v[one]
        )
        torch.testing.assert_close(whole[one], alone)


# --- objectives


@pytest.fixture
def chain_40() -> Gaussian:
    return Gaussian(cosine_betas(40))


def output(chain: Gaussian, learned: bool) -> nn.Parameter:
    """The network's answer at every step of the chain, to be trained directly."""
    out = torch.cat([0.5 * normal(chain.T, 3, 4, 4, seed=7), normal(chain.T, 3, 4, 4, seed=8)], 1)
    return nn.Parameter(out if learned else out[:, :3])


def gradient(out: nn.Parameter, chain: Gaussian, **options: Any) -> tuple[Tensor, Tensor]:
    """Of the mean half and of the v half."""
    x_0, eps = pixels(chain.T, 3, 4, 4), normal(chain.T, 3, 4, 4, seed=1)
    t = torch.arange(chain.T)
    terms = training_loss(lambda x_t, _: out[: len(x_t)], x_0, t, eps, chain, **options)
    (whole,) = torch.autograd.grad(sum(terms.values()).sum(), out)
    return whole[:, :3], whole[:, 3:]


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_hybrid_trains_the_mean_by_l_simple_and_v_by_the_bound(
    chain_40: Gaussian, prediction: str
) -> None:
    options: dict[str, Any] = {"prediction": prediction, "loss": prediction}
    out = output(chain_40, learned=True)
    simple, none = gradient(out, chain_40, **options)
    learned = options | {"variance": "learned_range"}
    mean, v = gradient(out, chain_40, objective="hybrid", **learned)
    bound_mean, bound_v = gradient(out, chain_40, objective="vlb", **learned)
    assert torch.equal(mean, simple) and not none.any()
    assert bool((v.abs().amax(dim=(1, 2, 3)) > 0).all())
    torch.testing.assert_close(v, LAMBDA * bound_v)
    assert bool((bound_mean.abs().amax(dim=(1, 2, 3)) > 0).all())
    assert not torch.allclose(bound_mean, mean)


def test_hybrid_is_l_simple_and_a_thousandth_of_the_bound(chain_40: Gaussian) -> None:
    out, t = output(chain_40, learned=True), torch.arange(chain_40.T)
    x_0, eps = pixels(chain_40.T, 3, 4, 4), normal(chain_40.T, 3, 4, 4, seed=1)
    simple, bound, both = (
        training_loss(
            lambda *_: out, x_0, t, eps, chain_40, objective=objective, variance="learned_range"
        )
        for objective in ("simple", "vlb", "hybrid")
    )
    assert torch.equal(both["simple"], simple["simple"])
    torch.testing.assert_close(both["vlb"], bound["vlb"] / 1000)
    torch.testing.assert_close(simple["simple"], (out[:, :3] - eps).square().mean(dim=(1, 2, 3)))
    for wrong, error in (({"objective": "hybird"}, ValueError), ({"prediction": "x0"}, KeyError)):
        with pytest.raises(error, match=next(iter(wrong.values()))):
            training_loss(lambda *_: out, x_0, t, eps, chain_40, **wrong)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
@pytest.mark.parametrize("variance", VARIANCES)
def test_the_mean_of_the_vlb_objective_over_t_is_the_bound(
    chain_40: Gaussian, variance: str, prediction: str
) -> None:
    """Sum of the KLs and L_0 in numpy: posterior and model step by the papers' formulas."""
    out = output(chain_40, learned=variance == "learned_range")
    T, x_0 = chain_40.T, pixels(1, 3, 4, 4)
    eps, t = normal(T, 3, 4, 4, seed=1), torch.arange(T)
    with torch.no_grad():
        loss = training_loss(
            lambda *_: out, x_0.expand(T, -1, -1, -1), t, eps, chain_40,
            prediction=prediction, objective="vlb", variance=variance,
        )["vlb"]  # fmt: skip
    beta, alpha_bar = chain_40.beta.numpy(), np.cumprod(1 - chain_40.beta.numpy())
    before = np.append(1, alpha_bar[:-1])
    tilde = beta * (1 - before) / (1 - alpha_bar)
    tilde[0] = tilde[1]
    total, answer = 0.0, out.detach().numpy()
    for i in range(T):
        a, s = np.sqrt(alpha_bar[i]), np.sqrt(1 - alpha_bar[i])
        x, x_t = x_0[0].numpy(), a * x_0[0].numpy() + s * eps[i].numpy()
        guess = answer[i, :3]
        x_hat = {"eps": (x_t - s * guess) / a, "x_0": guess, "v": a * x_t - s * guess}[prediction]
        c_0 = np.sqrt(before[i]) * beta[i] / (1 - alpha_bar[i])
        difference = c_0 * (x - x_hat)
        sigma2 = {"fixed_large": beta[i] if i else tilde[0], "fixed_small": tilde[i]}.get(variance)
        if sigma2 is None:
            share = (answer[i, 3:] + 1) / 2
            sigma2 = np.exp(share * np.log(beta[i]) + (1 - share) * np.log(tilde[i]))
        if i:
            kl = (np.log(sigma2 / tilde[i]) + (tilde[i] + difference**2) / sigma2 - 1) / 2
            total += kl.mean()
        else:
            sigma = np.broadcast_to(np.sqrt(sigma2), x.shape)
            chances = [
                phi((d + 1 / 255) / w) - phi((d - 1 / 255) / w)
                for d, w in zip(difference.flat, sigma.flat, strict=True)
            ]
            total += -np.log(np.maximum(chances, 1e-12)).mean()
    assert loss.mean().item() == pytest.approx(bits(total), rel=1e-6)


# --- the backend


def backend(**diffusion: Any) -> Backend:
    tree = {
        "data": {"image_size": 8},
        "model": {
            "channels": 8,
            "multipliers": [1],
            "blocks": 1,
            "attention": [],
            "norm_groups": 4,
        },
        "diffusion": {"T": 40, "schedule": "cosine", **diffusion},
        "sample": {"steps": 40},
    }
    return Backend(build(Config, tree))


def network(of: Backend) -> nn.Module:
    with torch_seed("test"):
        net = of.network()
        for parameter in net.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return net.eval()


@pytest.mark.parametrize("variance", ["auto", "fixed_large", "fixed_small"])
def test_training_is_of_the_learned_variance_however_samples_are_drawn(variance: str) -> None:
    learned = backend(variance="learned_range", objective="hybrid")
    learned.config.sample.variance = variance
    net = network(learned)
    x_0, eps = pixels(2, 3, 8, 8).float(), normal(2, 3, 8, 8).float()
    terms = learned.loss(net, {"x_0": x_0, "t": torch.tensor([0, 20]), "eps": eps})
    sum(terms.values()).sum().backward()
    head: Any = net.get_submodule("head")
    assert head.weight.shape[0] == 6 and bool(head.weight.grad[3:].any())


@pytest.mark.parametrize(
    "diffusion, named",
    [
        ({"objective": "hybrid"}, "diffusion.objective hybrid trains a learned variance"),
        ({"variance": "learned_range"}, "diffusion.objective simple does not train"),
    ],
)
def test_objective_and_variance_must_fit(diffusion: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        backend(**diffusion)


@pytest.mark.parametrize(
    "steps, spacing, variance",
    [(40, "trailing", "fixed_small"), (40, "trailing", "auto"), (7, "leading", "auto")],
)
@pytest.mark.parametrize("learned", [False, True])
def test_the_bound_has_a_term_for_the_prior_and_each_step(
    steps: int, spacing: str, variance: str, learned: bool
) -> None:
    options = {"variance": "learned_range", "objective": "vlb"} if learned else {}
    of = backend(**options)
    net, x_0 = network(of), pixels(2, 3, 8, 8).float()
    examples: Any = [SimpleNamespace(image=x) for x in x_0]
    sample = SampleConfig(steps=steps, spacing=spacing, variance=variance)
    rng = BatchRng([generator("e", i) for i in range(2)])
    terms = list(of.bound(net, examples, rng, sample))
    assert len(terms) == steps + 1 and all(term.shape == (2,) for term in terms)
    chain = of.chain.respaced(steps, spacing)
    torch.testing.assert_close(terms[0], prior_term(chain, x_0), rtol=1e-5, atol=0)
    draws = [generator("e", i) for i in range(2)]
    for i, term in zip(reversed(range(steps)), terms[1:], strict=True):
        x_t = chain.q_sample(
            x_0, i, torch.stack([torch.randn(3, 8, 8, generator=g) for g in draws])
        )
        with torch.no_grad():
            out = net(x_t, torch.full((2,), int(chain.timesteps[i])))
        x_0_hat = chain.x_0_from_eps(x_t, i, out[:, :3]).clamp(-1, 1)
        kind = ("learned_range" if learned else "fixed_large") if variance == "auto" else variance
        v = out[:, 3:] if learned else None
        expected = step_term(chain, x_0, x_t, torch.full((2,), i), x_0_hat, kind, v)
        torch.testing.assert_close(term, expected, rtol=1e-4, atol=1e-5)
