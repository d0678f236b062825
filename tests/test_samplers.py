"""Ancestral sampling, DDIM and DPM-Solver++ on chains and data whose answers are known."""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensors import SHAPE, clipped, no_noise, noise, normal, ones, to_zero, trace
from torch import Tensor

from gentool.diffusion.gaussian import SPACINGS, Gaussian
from gentool.diffusion.samplers import Denoise, Denoised, ancestral, ddim, dpm_solver_pp
from gentool.diffusion.schedules import SCHEDULES, cosine_betas, linear_betas

T = 1000
FIXED = ["fixed_large", "fixed_small"]
WITH_NOISE = [(ancestral, {}), (ddim, {"eta": 1.0}), (dpm_solver_pp, {"eta": 1.0})]


@pytest.fixture(params=["linear", "cosine"])
def chain(request: pytest.FixtureRequest) -> Gaussian:
    return Gaussian(SCHEDULES[request.param](T))


@pytest.fixture
def short() -> Gaussian:
    return Gaussian(linear_betas(50))


@pytest.mark.parametrize("steps, noise_scale", [(T, 1.0), (23, 1.0), (23, 0.7)])
def test_ddim_with_eta_1_is_ancestral_with_the_small_variance(
    chain: Gaussian, steps: int, noise_scale: float
) -> None:
    few, x_T, scale = chain.respaced(steps), normal(*SHAPE), {"noise_scale": noise_scale}
    a = trace(ancestral, clipped, x_T, few, noise(), variance="fixed_small", **scale)
    b = trace(ddim, clipped, x_T, few, noise(), eta=1.0, **scale)
    torch.testing.assert_close(torch.stack(a), torch.stack(b), rtol=0, atol=1e-9)


@pytest.mark.parametrize("betas, steps", [(linear_betas(50), 2), (cosine_betas(1000), 6)])
def test_ddim_with_eta_1_is_finite_in_float32(betas: Tensor, steps: int) -> None:
    chain, x_T = Gaussian(betas).respaced(steps), normal(*SHAPE).float()
    assert bool(ddim(clipped, x_T, chain, noise(), eta=1.0).isfinite().all())


@pytest.mark.parametrize("eta", [0.0, 0.4])
def test_one_ddim_step_to_the_end_is_x_0_hat(chain: Gaussian, eta: float) -> None:
    x_T = normal(*SHAPE)
    x_0 = ddim(clipped, x_T, chain.respaced(1), no_noise(), eta=eta)
    torch.testing.assert_close(x_0, clipped(x_T, 0).x_0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 10, T])
def test_ddim_told_the_true_eps_goes_back_the_way_it_came(chain: Gaussian, steps: int) -> None:
    few = chain.respaced(steps)
    x_0, eps = normal(*SHAPE).clamp(-1, 1), normal(*SHAPE, seed=1)

    def oracle(x_t: Tensor, t: int) -> Denoised:
        return Denoised(few.x_0_from_eps(x_t, t, eps))

    x_T = few.q_sample(x_0, few.T - 1, eps)
    states = trace(ddim, oracle, x_T, few, no_noise())
    on_the_way = [few.q_sample(x_0, t, eps) for t in reversed(range(few.T))]
    expected = torch.stack([*on_the_way, x_0])
    torch.testing.assert_close(torch.stack(states), expected, rtol=0, atol=1e-7)


def test_ddim_takes_its_noise_from_the_clipped_x_0() -> None:
    chain = Gaussian(torch.tensor([0.1, 0.2], dtype=torch.float64))
    x_T = torch.full((1, 1), 9.0, dtype=torch.float64)
    states = trace(ddim, clipped, x_T, chain, no_noise())
    eps = (9 - np.sqrt(0.72)) / np.sqrt(0.28)
    assert states[1].item() == pytest.approx(np.sqrt(0.9) + np.sqrt(0.1) * eps)


@pytest.mark.parametrize("variance", FIXED)
def test_ancestral_told_x_0_at_every_step_returns_it(chain: Gaussian, variance: str) -> None:
    x_0 = normal(*SHAPE, seed=1)
    out = ancestral(lambda *_: Denoised(x_0), normal(*SHAPE), chain, noise(), variance=variance)
    torch.testing.assert_close(out, x_0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("noise_scale", [1.0, 0.5])
@pytest.mark.parametrize("variance", FIXED)
def test_the_noise_added_has_the_variance_asked_for(
    chain: Gaussian, variance: str, noise_scale: float
) -> None:
    """With noise that is all ones and x_0_hat = 0 a step adds sigma_t to a multiple of x_t."""
    few, options = chain.respaced(100), {"variance": variance, "noise_scale": noise_scale}
    states = trace(ancestral, to_zero, normal(*SHAPE), few, ones(), **options)
    beta = few.beta.numpy()
    alpha_bar = np.cumprod(1 - beta)
    for t in range(1, few.T):
        left = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
        mean = np.sqrt(1 - beta[t]) * left * states[few.T - 1 - t]
        sigma = np.sqrt(beta[t] if variance == "fixed_large" else beta[t] * left)
        expected = torch.full(SHAPE, noise_scale * sigma, dtype=torch.float64)
        torch.testing.assert_close(states[few.T - t] - mean, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("v, variance", [(1.0, "fixed_large"), (-1.0, "fixed_small")])
def test_a_learned_variance_at_its_ends_is_a_fixed_one(
    chain: Gaussian, v: float, variance: str
) -> None:
    def learned(x_t: Tensor, t: int) -> Denoised:
        return Denoised(clipped(x_t, t).x_0, torch.full_like(x_t, v))

    few, x_T = chain.respaced(30), normal(*SHAPE)
    a = trace(ancestral, learned, x_T, few, noise(), variance="learned_range")
    b = trace(ancestral, clipped, x_T, few, noise(), variance=variance)
    torch.testing.assert_close(torch.stack(a), torch.stack(b), rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.3, 1.0, 2.5])
def test_the_noise_ddim_adds_is_eq_16(short: Gaussian, eta: float) -> None:
    with_noise = trace(ddim, to_zero, normal(*SHAPE), short, ones(), eta=eta)
    alpha_bar = np.cumprod(1 - short.beta.numpy())
    for t in range(1, short.T):
        now, prev = alpha_bar[t], alpha_bar[t - 1]
        sigma = eta * np.sqrt((1 - prev) / (1 - now)) * np.sqrt(1 - now / prev)
        sigma = min(sigma, np.sqrt(1 - prev))
        eps = with_noise[short.T - 1 - t] / np.sqrt(1 - now)
        expected = np.sqrt(max(0, 1 - prev - sigma**2)) * eps + sigma
        torch.testing.assert_close(with_noise[short.T - t], expected)


@pytest.mark.parametrize("sampler, options", WITH_NOISE)
def test_the_last_step_adds_no_noise(
    short: Gaussian, sampler: Callable[..., Tensor], options: dict[str, float]
) -> None:
    rng = noise()
    out = sampler(to_zero, normal(*SHAPE), short, rng, **options)
    assert len(rng.drawn) == short.T - 1
    assert float(out.abs().max()) < 1e-10


@pytest.mark.parametrize("sampler, options", WITH_NOISE)
def test_without_noise_x_T_decides_everything(
    short: Gaussian, sampler: Callable[..., Tensor], options: dict[str, float]
) -> None:
    def drawn(seed: int, noise_scale: float, start: int = 0) -> Tensor:
        x_T = normal(*SHAPE, seed=start)
        # Never clipped, so that a difference survives to the end.
        return sampler(
            lambda x, _: Denoised(0.4 * x),
            x_T,
            short,
            noise(seed),
            noise_scale=noise_scale,
            **options,
        )

    assert torch.equal(drawn(1, 0.0), drawn(2, 0.0))
    assert not torch.equal(drawn(1, 1.0), drawn(2, 1.0))
    assert not torch.equal(drawn(1, 0.0), drawn(1, 0.0, start=1))


@pytest.mark.parametrize("sampler", [ancestral, ddim, dpm_solver_pp])
def test_on_step_hears_of_every_step_and_its_x_0_hat(
    short: Gaussian, sampler: Callable[..., Tensor]
) -> None:
    left: list[int] = []
    guesses: list[Tensor] = []
    heard: list[tuple[int, Tensor, Tensor]] = []

    def denoise(x_t: Tensor, t: int) -> Denoised:
        left.append(t)
        guesses.append(clipped(x_t, t).x_0)
        return Denoised(guesses[-1])

    out = sampler(denoise, normal(*SHAPE), short, noise(), on_step=lambda *a: heard.append(a))
    assert left == [step for step, _, _ in heard] == list(range(short.T))[::-1]
    assert all(a is b for a, (_, _, b) in zip(guesses, heard, strict=True))
    assert torch.equal(heard[-1][1], out)


def algorithm_2(betas: np.ndarray, x_T: np.ndarray, z: Sequence[np.ndarray]) -> np.ndarray:
    """Ho et al. 2020, Algorithm 2 as printed (t counts from 1), with eps_theta = `small_eps`."""
    alpha = 1 - betas
    x = x_T
    for t in range(len(betas), 0, -1):
        alpha_bar = np.prod(alpha[:t])
        eps = small_eps(x, t - 1)
        x = (x - (1 - alpha[t - 1]) / np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha[t - 1])
        if t > 1:
            x = x + np.sqrt(betas[t - 1]) * z[len(betas) - t]
    return x


def small_eps(x: np.ndarray, t: int) -> np.ndarray:
    return 0.5 * x + 1e-4 * t


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_ancestral_is_algorithm_2_of_the_paper(dtype: torch.dtype, tolerance: float) -> None:
    betas = np.linspace(1e-4, 0.02, T)
    chain, x_T = Gaussian(linear_betas(T)), normal(*SHAPE)
    draw = noise().normal
    expected = algorithm_2(betas, x_T.numpy(), [draw(*SHAPE[1:]).numpy() for _ in range(T - 1)])

    def denoise(x_t: Tensor, t: int) -> Denoised:
        return Denoised(chain.x_0_from_eps(x_t, t, 0.5 * x_t + 1e-4 * t))

    got = ancestral(denoise, x_T.to(dtype), chain, noise())
    assert got.dtype == dtype
    np.testing.assert_allclose(got.double().numpy(), expected, rtol=tolerance, atol=tolerance)


# --- DPM-Solver++


def gaussian_data(chain: Gaussian, mean: float, s: float) -> Denoise:
    """E[x_0 | x_t] where the data are N(mean, s^2)."""

    def denoise(x_t: Tensor, t: int) -> Denoised:
        alpha, variance = math.sqrt(chain.alpha_bar[t]), 1 - chain.alpha_bar[t].item()
        gain = alpha * s**2 / (alpha**2 * s**2 + variance)
        return Denoised(mean + gain * (x_t - alpha * mean))

    return denoise


def exact(chain: Gaussian, x_T: Tensor, t: int, mean: float, s: float) -> Tensor:
    """Where the ODE takes x_T: such data keep their place in the distribution. t = -1: x_0."""

    def spread(t: int) -> tuple[float, float]:
        alpha_bar = 1.0 if t < 0 else chain.alpha_bar[t].item()
        return math.sqrt(alpha_bar) * mean, math.sqrt(alpha_bar * s**2 + 1 - alpha_bar)

    (m_T, s_T), (m_t, s_t) = spread(chain.T - 1), spread(t)
    return m_t + s_t * (x_T - m_T) / s_T


def errors(sampler: Callable[..., Tensor], chain: Gaussian) -> list[float]:
    """Largest distance from the exact solution after each step, over 64 starts."""
    x_T = normal(64, 1)
    states = trace(sampler, gaussian_data(chain, 0.3, 0.5), x_T, chain, no_noise())[1:]
    solution = [exact(chain, x_T, t, 0.3, 0.5) for t in reversed(range(-1, chain.T - 1))]
    return [float((a - b).abs().max()) for a, b in zip(states, solution, strict=True)]


def even_chain(steps: int) -> Gaussian:
    """Steps of one size in lambda, half the log of the signal-to-noise ratio, which on the papers'
    chains grow without bound towards x_0."""
    alpha_bar = torch.sigmoid(2 * torch.linspace(3, -3, steps + 1, dtype=torch.float64))
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    return Gaussian(1 - alpha_bar / before)


@pytest.mark.parametrize("sampler, order", [(dpm_solver_pp, 2), (ddim, 1)])
def test_half_the_step_leaves_a_quarter_of_the_error(
    sampler: Callable[..., Tensor], order: int
) -> None:
    """Or half of it, with DDIM. The last step is to no noise at all and left out."""
    found = [max(errors(sampler, even_chain(steps))[:-1]) for steps in (20, 40, 80, 160)]
    for coarse, fine in zip(found, found[1:], strict=False):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25), found


@pytest.mark.parametrize("steps, share", [(5, 1), (10, 0.8), (20, 0.4), (50, 0.3)])
def test_dpm_solver_is_nearer_to_the_solution_than_ddim(steps: int, share: float) -> None:
    chain = Gaussian(linear_betas(T)).respaced(steps)
    assert max(errors(dpm_solver_pp, chain)) < share * max(errors(ddim, chain))


@pytest.mark.parametrize("steps", [1, 2])
def test_the_first_and_the_last_step_are_ddim(chain: Gaussian, steps: int) -> None:
    few, x_T = chain.respaced(steps), normal(*SHAPE)
    a, b = (trace(sampler, clipped, x_T, few, no_noise()) for sampler in (dpm_solver_pp, ddim))
    torch.testing.assert_close(torch.stack(a), torch.stack(b), rtol=0, atol=1e-9)


def test_a_step_between_is_eq_9_of_the_paper() -> None:
    """x_{t-1} from x_t and two guesses, by hand; the chain has lambda = 1, 0.5, -1."""
    alpha_bar = torch.sigmoid(2 * torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64))
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    chain = Gaussian(1 - alpha_bar / before)
    guesses = {2: 0.2, 1: -0.7, 0: 0.4}

    def denoise(x_t: Tensor, t: int) -> Denoised:
        return Denoised(0 * x_t + guesses[t])

    states = trace(dpm_solver_pp, denoise, normal(1, 1), chain, no_noise())
    alpha, sigma = np.sqrt(alpha_bar.numpy()), np.sqrt(1 - alpha_bar.numpy())
    first = sigma[1] / sigma[2] * states[0].item() - alpha[1] * (np.exp(-1.5) - 1) * 0.2
    D = (1 + 0.5 / 3) * -0.7 - 0.5 / 3 * 0.2  # 1 / (2 r) with r = 1.5 / 0.5
    second = sigma[0] / sigma[1] * first - alpha[0] * (np.exp(-0.5) - 1) * D
    assert [x.item() for x in states[1:]] == pytest.approx([first, second, 0.4])


@pytest.mark.parametrize("steps", [1, 2, 10, T])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_dpm_solver_is_finite_in_float32(chain: Gaussian, steps: int, spacing: str) -> None:
    few, x_T = chain.respaced(steps, spacing), normal(*SHAPE).float()
    states = torch.stack(trace(dpm_solver_pp, clipped, x_T, few, no_noise()))
    assert states.dtype == torch.float32 and bool(states.isfinite().all())
    # x_0_hat is within -1..1, and extrapolated from there by no more than a step's change.
    assert float(states.abs().max()) < 5


def test_dpm_solver_in_float32_is_that_in_float64(chain: Gaussian) -> None:
    few, x_T = chain.respaced(20), normal(*SHAPE)
    a = dpm_solver_pp(gaussian_data(few, 0.3, 0.5), x_T, few, no_noise())
    b = dpm_solver_pp(gaussian_data(few, 0.3, 0.5), x_T.float(), few, no_noise())
    torch.testing.assert_close(a.float(), b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("eta", [0.3, 1.0, 2.5])
def test_noise_of_dpm_solver_replaces_as_much_as_it_takes_away(chain: Gaussian, eta: float) -> None:
    """Told the true x_0 = 0, what is left at step t is noise of variance sigma_t^2, of whatever
    mixture: here each draw is a dimension of its own."""
    few = chain.respaced(20)
    axes = iter(torch.eye(few.T, dtype=torch.float64))

    def draw(*shape: int) -> Tensor:
        return next(axes)[None]

    sigma = (1 - few.alpha_bar).sqrt()
    x_T = sigma[-1] * draw()
    states = trace(dpm_solver_pp, to_zero, x_T, few, SimpleNamespace(normal=draw), eta=eta)[:-1]
    lengths = torch.cat(states).norm(dim=1).flip(0)
    torch.testing.assert_close(lengths, sigma, rtol=1e-9, atol=0)
    mixed = (torch.cat(states)[-1] > 1e-9).sum()
    assert mixed > 10, "no new noise was drawn"


def test_dpm_solver_with_all_the_noise_is_ancestral_to_first_order(chain: Gaussian) -> None:
    """Where the guess of x_0 stays, second order has nothing to add: the posterior is exact."""
    few, x_T, x_0 = chain.respaced(20), normal(*SHAPE), normal(*SHAPE, seed=1)
    a, b = (
        trace(sampler, lambda *_: Denoised(x_0), x_T, few, noise(), **options)
        for sampler, options in (
            (ancestral, {"variance": "fixed_small"}),
            (dpm_solver_pp, {"eta": 1.0}),
        )
    )
    torch.testing.assert_close(torch.stack(a), torch.stack(b), rtol=0, atol=1e-9)
