"""The closed forms of the forward chain, the schedules, and the samplers on known answers.

Everything here is float64 unless a test is about float32, so the tolerances are tight.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from gentool.diffusion.gaussian import Gaussian, at
from gentool.diffusion.samplers import VARIANCES, ancestral, ddim
from gentool.diffusion.schedules import SCHEDULES, cosine_betas, linear_betas

T = 1000
SHAPE = (2, 3, 4, 4)
CHAINS = [("linear", 1000), ("linear", 4000), ("cosine", 1000), ("cosine", 4000)]


@pytest.fixture(params=["linear", "cosine"])
def chain(request: pytest.FixtureRequest) -> Gaussian:
    return Gaussian(SCHEDULES[request.param](T))


@pytest.fixture
def short() -> Gaussian:
    return Gaussian(linear_betas(50))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def noise(seed: int = 0, batch: int = SHAPE[0]) -> SimpleNamespace:
    """A source of noise that counts its draws in `shapes`."""
    generator, shapes = torch.Generator().manual_seed(seed), []

    def draw(*shape: int) -> Tensor:
        shapes.append(shape)
        return torch.randn((batch, *shape), dtype=torch.float64, generator=generator)

    return SimpleNamespace(normal=draw, shapes=shapes)


def ones() -> SimpleNamespace:
    return SimpleNamespace(normal=lambda *shape: torch.ones(SHAPE[0], *shape, dtype=torch.float64))


def no_noise() -> SimpleNamespace:
    def refuse(*shape: int) -> Tensor:
        raise AssertionError("noise was drawn")

    return SimpleNamespace(normal=refuse)


def clipped(x_t: Tensor, t: int) -> Tensor:
    """A predict_x_0 that depends on x_t and t and is often clipped."""
    return (1.5 * x_t + 0.01 * t).clamp(-1, 1)


def trace(sampler: Callable[..., Tensor], *args: object, **options: object) -> list[Tensor]:
    """x_t after each step, from x_T to x_0."""
    states = [args[1]]
    sampler(*args, **options, on_step=lambda _, x_t, __: states.append(x_t))
    return states


# --- schedules


@pytest.mark.parametrize(
    "schedule, steps, table, index, value",
    [
        ("linear", 1000, "beta", 1, "1.1992e-4"),
        ("linear", 1000, "alpha_bar", 0, "0.9999"),
        ("linear", 1000, "alpha_bar", 499, "0.078587"),
        ("linear", 1000, "alpha_bar", 999, "4.0358e-5"),
        ("linear", 1000, "beta_tilde", 1, "5.45319e-5"),
        ("linear", 4000, "beta", 0, "2.5e-5"),
        ("linear", 4000, "beta", 3999, "0.005"),
        ("linear", 4000, "alpha_bar", 3999, "4.2467e-5"),
        ("cosine", 1000, "beta", 0, "4.12842e-5"),
        ("cosine", 1000, "alpha_bar", 499, "0.493844"),
        ("cosine", 1000, "alpha_bar", 998, "2.42877e-6"),
        ("cosine", 1000, "alpha_bar", 999, "2.42877e-9"),
        ("cosine", 1000, "beta", 999, "0.999"),
        ("cosine", 4000, "beta", 0, "9.86582e-6"),
    ],
)
def test_tables_have_the_known_values(
    schedule: str, steps: int, table: str, index: int, value: str
) -> None:
    digits = len(value.split("e")[0].replace(".", "").lstrip("0"))
    got = getattr(Gaussian(SCHEDULES[schedule](steps)), table)[index].item()
    assert f"{got:.{digits - 1}e}" == f"{float(value):.{digits - 1}e}"


@pytest.mark.parametrize("schedule, steps", CHAINS)
def test_betas_are_float64_and_never_above_the_cap(schedule: str, steps: int) -> None:
    betas = SCHEDULES[schedule](steps)
    assert betas.dtype == torch.float64 and betas.shape == (steps,)
    assert betas.min() > 0 and betas.max() <= 0.999
    assert bool((betas.diff() >= 0).all())


# --- the chain


@pytest.mark.parametrize("schedule, steps", CHAINS)
def test_posterior_reproduces_q_of_the_step_before(schedule: str, steps: int) -> None:
    """E and Var of x_{t-1} given x_0, over x_t ~ q(x_t | x_0), are those of q(x_{t-1} | x_0)."""
    chain = Gaussian(SCHEDULES[schedule](steps))
    alpha_bar = np.cumprod(1 - chain.beta.numpy())
    before = np.append(1.0, alpha_bar[:-1])
    t, one = torch.arange(steps), torch.ones(steps, 1, dtype=torch.float64)
    mean, variance = chain.q_posterior(one, torch.from_numpy(alpha_bar).sqrt()[:, None], t)
    of_x_t, _ = chain.q_posterior(0 * one, one, t)
    spread = variance + of_x_t.square() * torch.from_numpy(1 - alpha_bar)[:, None]
    np.testing.assert_allclose(mean[:, 0], np.sqrt(before), rtol=1e-11)
    # 1 - alpha_bar has lost five digits where alpha_bar is nearly 1.
    np.testing.assert_allclose(spread[:, 0], 1 - before, rtol=1e-9, atol=1e-14)


def test_posterior_of_step_0_is_x_0_itself(chain: Gaussian) -> None:
    x_0 = normal(*SHAPE)
    mean, variance = chain.q_posterior(x_0, normal(*SHAPE, seed=1), 0)
    torch.testing.assert_close(mean, x_0, rtol=1e-10, atol=0)
    assert variance.item() == 0


def test_q_sample_has_the_moments_of_eq_4(chain: Gaussian) -> None:
    alpha_bar = np.cumprod(1 - chain.beta.numpy())
    one = torch.ones(T, 1, dtype=torch.float64)
    t = torch.arange(T)
    np.testing.assert_allclose(chain.q_sample(one, t, 0 * one)[:, 0], np.sqrt(alpha_bar))
    np.testing.assert_allclose(chain.q_sample(0 * one, t, one)[:, 0], np.sqrt(1 - alpha_bar))


def test_eps_to_x_0_and_back_is_the_same_eps(chain: Gaussian) -> None:
    x_t, eps, t = normal(T, 4), normal(T, 4, seed=1), torch.arange(T)
    x_0 = chain.x_0_from_eps(x_t, t, eps)
    torch.testing.assert_close(chain.eps_from_x_0(x_t, t, x_0), eps, rtol=0, atol=1e-8)
    torch.testing.assert_close(chain.q_sample(x_0, t, eps), x_t, rtol=0, atol=1e-10)


def test_the_round_trip_holds_in_float32_well_inside_the_chain(chain: Gaussian) -> None:
    t = torch.arange(100, 900, 50)
    x_0, eps = normal(16, 8).float(), normal(16, 8, seed=1).float()
    x_t = chain.q_sample(x_0, t, eps)
    assert x_t.dtype == torch.float32
    torch.testing.assert_close(chain.eps_from_x_0(x_t, t, x_0), eps, rtol=0, atol=1e-5)
    again = chain.q_sample(chain.x_0_from_eps(x_t, t, eps), t, eps)
    torch.testing.assert_close(again, x_t, rtol=0, atol=1e-5)


def test_v_is_a_rotation_of_eps_and_x_0(chain: Gaussian) -> None:
    x_0, eps, t = normal(T, 4), normal(T, 4, seed=1), torch.arange(T)
    alpha_bar = np.cumprod(1 - chain.beta.numpy())[:, None]
    v = chain.v(x_0, t, eps)
    expected = np.sqrt(alpha_bar) * eps.numpy() - np.sqrt(1 - alpha_bar) * x_0.numpy()
    np.testing.assert_allclose(v.numpy(), expected)
    x_t = chain.q_sample(x_0, t, eps)
    torch.testing.assert_close(chain.x_0_from_v(x_t, t, v), x_0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(chain.snr, (alpha_bar / (1 - alpha_bar))[:, 0], rtol=1e-10)


FORMS = ["q_sample", "v", "x_0_from_eps", "x_0_from_v", "eps_from_x_0"]


@pytest.mark.parametrize("form", FORMS)
def test_a_step_per_example_is_that_step_for_each(chain: Gaussian, form: str) -> None:
    x, y, t = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1), torch.tensor([0, 7, T - 1])
    call = getattr(chain, form)
    whole = call(x, t, y)
    mean, variance = chain.q_posterior(x, y, t)
    for i, step in enumerate(t.tolist()):
        assert torch.equal(whole[i], call(x[i : i + 1], step, y[i : i + 1])[0])
        own_mean, own_variance = chain.q_posterior(x[i : i + 1], y[i : i + 1], step)
        assert torch.equal(mean[i], own_mean[0]) and variance[i].item() == own_variance.item()


def test_a_coefficient_takes_the_dtype_and_rank_of_what_it_meets() -> None:
    table = torch.arange(5, dtype=torch.float64)
    assert at(table, torch.tensor([3, 1]), torch.zeros(2, 3, 4, 4)).shape == (2, 1, 1, 1)
    assert at(table, 3, torch.zeros(2, 7)).dtype == torch.float32
    assert at(table, torch.tensor([3, 1]), torch.zeros(2, 7)).flatten().tolist() == [3, 1]


# --- respacing


def test_respacing_with_every_step_changes_nothing(chain: Gaussian) -> None:
    same = chain.respaced(T)
    torch.testing.assert_close(same.beta, chain.beta, rtol=0, atol=1e-12)
    assert torch.equal(same.timesteps, torch.arange(T))


@pytest.mark.parametrize("steps", [2, 3, 7, 50, 333, T - 1])
def test_a_respaced_chain_visits_the_original_at_even_steps(chain: Gaussian, steps: int) -> None:
    fewer = chain.respaced(steps)
    visited = fewer.timesteps
    assert fewer.T == len(visited) == steps
    assert (visited[0].item(), visited[-1].item()) == (0, T - 1)
    gaps = visited.diff()
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1
    # Not closer at the end of cosine, where 1 - beta is 2e-9.
    torch.testing.assert_close(fewer.alpha_bar, chain.alpha_bar[visited], rtol=1e-6, atol=0)


def test_one_step_starts_from_pure_noise(chain: Gaussian) -> None:
    one = chain.respaced(1)
    assert one.timesteps.tolist() == [T - 1]
    torch.testing.assert_close(one.alpha_bar, chain.alpha_bar[-1:], rtol=1e-6, atol=0)


def test_a_chain_respaced_twice_keeps_the_first_indices(chain: Gaussian) -> None:
    twice = chain.respaced(100).respaced(10)
    assert set(twice.timesteps.tolist()) <= set(chain.respaced(100).timesteps.tolist())
    torch.testing.assert_close(twice.alpha_bar, chain.alpha_bar[twice.timesteps], rtol=1e-6, atol=0)


@pytest.mark.parametrize("steps", [0, -1, T + 1])
def test_a_number_of_steps_the_chain_has_not_is_an_error(chain: Gaussian, steps: int) -> None:
    with pytest.raises(ValueError, match=f"1..{T}, got {steps}"):
        chain.respaced(steps)


# --- samplers


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
    torch.testing.assert_close(x_0, clipped(x_T, 0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 10, T])
def test_ddim_told_the_true_eps_goes_back_the_way_it_came(chain: Gaussian, steps: int) -> None:
    few = chain.respaced(steps)
    x_0, eps = normal(*SHAPE).clamp(-1, 1), normal(*SHAPE, seed=1)

    def oracle(x_t: Tensor, t: int) -> Tensor:
        return few.x_0_from_eps(x_t, t, eps)

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


@pytest.mark.parametrize("variance", VARIANCES)
def test_ancestral_told_x_0_at_every_step_returns_it(chain: Gaussian, variance: str) -> None:
    x_0 = normal(*SHAPE, seed=1)
    out = ancestral(lambda *_: x_0, normal(*SHAPE), chain, noise(), variance=variance)
    torch.testing.assert_close(out, x_0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("noise_scale", [1.0, 0.5])
@pytest.mark.parametrize("variance", VARIANCES)
def test_the_noise_added_has_the_variance_asked_for(
    chain: Gaussian, variance: str, noise_scale: float
) -> None:
    """With noise that is all ones and x_0_hat = 0 a step adds sigma_t to a multiple of x_t."""
    few, options = chain.respaced(100), {"variance": variance, "noise_scale": noise_scale}
    states = trace(ancestral, lambda x, _: 0 * x, normal(*SHAPE), few, ones(), **options)
    beta = few.beta.numpy()
    alpha_bar = np.cumprod(1 - beta)
    for t in range(1, few.T):
        left = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
        mean = np.sqrt(1 - beta[t]) * left * states[few.T - 1 - t]
        sigma = np.sqrt(beta[t] if variance == "fixed_large" else beta[t] * left)
        expected = torch.full(SHAPE, noise_scale * sigma, dtype=torch.float64)
        torch.testing.assert_close(states[few.T - t] - mean, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_the_noise_ddim_adds_is_eq_16(short: Gaussian, eta: float) -> None:
    with_noise = trace(ddim, lambda x, _: 0 * x, normal(*SHAPE), short, ones(), eta=eta)
    alpha_bar = np.cumprod(1 - short.beta.numpy())
    for t in range(1, short.T):
        now, prev = alpha_bar[t], alpha_bar[t - 1]
        sigma = eta * np.sqrt((1 - prev) / (1 - now)) * np.sqrt(1 - now / prev)
        eps = with_noise[short.T - 1 - t] / np.sqrt(1 - now)
        expected = np.sqrt(1 - prev - sigma**2) * eps + sigma
        torch.testing.assert_close(with_noise[short.T - t], expected)


@pytest.mark.parametrize("sampler, options", [(ancestral, {}), (ddim, {"eta": 1.0})])
def test_the_last_step_adds_no_noise(
    short: Gaussian, sampler: Callable[..., Tensor], options: dict[str, float]
) -> None:
    rng = noise()
    out = sampler(lambda x, _: 0 * x, normal(*SHAPE), short, rng, **options)
    assert rng.shapes == [SHAPE[1:]] * (short.T - 1)
    assert float(out.abs().max()) < 1e-10


@pytest.mark.parametrize("sampler, options", [(ancestral, {}), (ddim, {"eta": 1.0})])
def test_without_noise_x_T_decides_everything(
    short: Gaussian, sampler: Callable[..., Tensor], options: dict[str, float]
) -> None:
    def drawn(seed: int, noise_scale: float, start: int = 0) -> Tensor:
        x_T = normal(*SHAPE, seed=start)
        # Never clipped, so that a difference survives to the end.
        return sampler(
            lambda x, _: 0.4 * x, x_T, short, noise(seed), noise_scale=noise_scale, **options
        )

    assert torch.equal(drawn(1, 0.0), drawn(2, 0.0))
    assert not torch.equal(drawn(1, 1.0), drawn(2, 1.0))
    assert not torch.equal(drawn(1, 0.0), drawn(1, 0.0, start=1))


def test_an_unknown_variance_is_an_error(short: Gaussian) -> None:
    with pytest.raises(ValueError, match="fixed_large, fixed_small, got 'learned'"):
        ancestral(clipped, normal(*SHAPE), short, noise(), variance="learned")


@pytest.mark.parametrize("sampler", [ancestral, ddim])
def test_on_step_hears_of_every_step_and_its_x_0_hat(
    short: Gaussian, sampler: Callable[..., Tensor]
) -> None:
    left: list[int] = []
    guesses: list[Tensor] = []
    heard: list[tuple[int, Tensor, Tensor]] = []

    def predict(x_t: Tensor, t: int) -> Tensor:
        left.append(t)
        guesses.append(clipped(x_t, t))
        return guesses[-1]

    out = sampler(predict, normal(*SHAPE), short, noise(), on_step=lambda *a: heard.append(a))
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

    def predict(x_t: Tensor, t: int) -> Tensor:
        return chain.x_0_from_eps(x_t, t, 0.5 * x_t + 1e-4 * t)

    got = ancestral(predict, x_T.to(dtype), chain, noise())
    assert got.dtype == dtype
    np.testing.assert_allclose(got.double().numpy(), expected, rtol=tolerance, atol=tolerance)
