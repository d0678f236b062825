"""The closed forms of the forward chain, the schedules and respacing.

Everything here is float64 unless a test is about float32, so the tolerances are tight.
"""

import math

import numpy as np
import pytest
import torch
from tensors import SHAPE, normal

from gentool.diffusion.gaussian import Gaussian, at
from gentool.diffusion.schedules import SCHEDULES, noise_chain, shifted_betas
from gentool.errors import UsageError

T = 1000
CHAINS = [("linear", 1000), ("linear", 4000), ("cosine", 1000), ("cosine", 4000)]


@pytest.fixture(params=["linear", "cosine"])
def chain(request: pytest.FixtureRequest) -> Gaussian:
    return Gaussian(SCHEDULES[request.param](T))


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
        ("sqrt", 2000, "beta", 0, "0.0146413"),
        ("sqrt", 2000, "beta", 1, "0.00888909"),
        ("sqrt", 2000, "beta", 1999, "0.999"),
        ("sqrt", 2000, "alpha_bar", 0, "0.985359"),
        ("sqrt", 2000, "alpha_bar", 999, "0.295780"),
        ("sqrt", 2000, "alpha_bar", 1999, "2.0204e-7"),
        ("sqrt", 200, "beta", 0, "0.0620346"),
        ("sqrt", 200, "alpha_bar", 0, "0.937965"),
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


@pytest.mark.parametrize("schedule, steps", CHAINS)
def test_a_shifted_chain_has_that_much_more_noise_at_every_step(schedule: str, steps: int) -> None:
    betas = SCHEDULES[schedule](steps)
    assert shifted_betas(betas, 1.0) is betas
    plain, shifted = Gaussian(betas), Gaussian(shifted_betas(betas, 4.0))
    torch.testing.assert_close(shifted.snr, plain.snr / 16, rtol=1e-6, atol=0)


def test_the_noise_of_step_0_depends_on_the_number_of_steps() -> None:
    """Diffusion-LM's sigma_0, of which the paper says 0.1."""
    sigma_0 = [Gaussian(SCHEDULES["sqrt"](steps)).alpha_bar[0] for steps in (2000, 200)]
    assert [f"{math.sqrt(1 - a):.5f}" for a in sigma_0] == ["0.12100", "0.24907"]


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
    # All but the last, which goes through the formula.
    most = chain.respaced(T - 1, "leading")
    torch.testing.assert_close(most.beta, chain.beta[:-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [2, 3, 7, 50, 333, T - 1])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_a_respaced_chain_visits_the_original_at_even_steps(
    chain: Gaussian, steps: int, spacing: str
) -> None:
    fewer = chain.respaced(steps, spacing)
    visited = fewer.timesteps
    assert fewer.T == len(visited) == steps
    gaps = visited.diff()
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1
    if spacing == "trailing":
        assert visited[-1] == T - 1 and abs(visited[0] - (T / steps - 1)) <= 0.5
    else:
        assert visited[0] == 0 and set(gaps.tolist()) == {T // steps}
    # Not closer at the end of cosine, where 1 - beta is 2e-9.
    torch.testing.assert_close(fewer.alpha_bar, chain.alpha_bar[visited], rtol=1e-6, atol=0)


@pytest.mark.parametrize("steps", [2, 3, 7, 50, 333, 700, T - 1])
def test_quadratic_steps_are_closer_the_less_noise(chain: Gaussian, steps: int) -> None:
    visited = chain.respaced(steps, "quadratic").timesteps
    gaps = visited.diff()
    assert len(visited) == steps and visited[0] >= 0 and visited[-1] == T - 1
    assert gaps.min() >= 1 and (gaps.diff() >= -1).all()  # but for rounding they grow
    # As the square, but where that would take a step twice.
    square = T * (torch.arange(1, steps + 1) / steps) ** 2 - 1
    apart = square >= torch.arange(steps)
    assert ((visited - square)[apart].abs() <= 0.51).all()
    assert torch.equal(visited[~apart], torch.arange(steps)[~apart])


def test_ten_of_a_thousand_steps_are_those_of_the_papers(chain: Gaussian) -> None:
    """Lin et al. 2024, table 2: for ten steps 1, 101, … 901 and 100, 200, … 1000, from 1."""
    assert chain.respaced(10, "leading").timesteps.tolist() == list(range(0, T, 100))
    assert chain.respaced(10).timesteps.tolist() == list(range(99, T, 100))
    assert chain.respaced(3).timesteps.tolist() == [332, 666, 999]
    # Song et al. 2021, appendix D.2: i² / 100 of the chain.
    quadratic = [9, 39, 89, 159, 249, 359, 489, 639, 809, 999]
    assert chain.respaced(10, "quadratic").timesteps.tolist() == quadratic


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
    with pytest.raises(ValueError, match="leading, quadratic, got 'linspace'"):
        chain.respaced(10, "linspace")


@pytest.mark.parametrize("last", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_betas_outside_of_0_and_1_are_an_error(last: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1, the last is"):
        Gaussian(torch.tensor([0.1, last], dtype=torch.float64))


# --- variances


@pytest.mark.parametrize("steps", [1, 2, 10, T])
def test_a_learned_variance_lies_between_the_fixed_ones(chain: Gaussian, steps: int) -> None:
    """At v = 1 it is beta_t, at -1 the clipped beta_tilde_t, of the chain that is walked."""
    few = chain.respaced(steps)
    beta, alpha_bar = few.beta.numpy(), np.cumprod(1 - few.beta.numpy())
    before = np.append(1.0, alpha_bar[:-1])
    beta_tilde = beta * (1 - before) / (1 - alpha_bar)
    beta_tilde[0] = beta_tilde[1] if steps > 1 else beta[0]
    t, x_t = torch.arange(steps), torch.zeros(steps, 3, dtype=torch.float64)
    for v, expected in [
        (1.0, np.log(beta)),
        (-1.0, np.log(beta_tilde)),
        (0.0, (np.log(beta) + np.log(beta_tilde)) / 2),
        (2.0, 1.5 * np.log(beta) - 0.5 * np.log(beta_tilde)),  # nothing holds it in the range
    ]:
        got = few.log_variance("learned_range", t, x_t, torch.full_like(x_t, v))
        assert got.shape == (steps, 3)
        np.testing.assert_allclose(got[:, 1], expected, rtol=1e-9)
    small = few.log_variance("fixed_small", t, x_t)
    np.testing.assert_allclose(small[:, 0], np.log(beta_tilde), rtol=1e-9)
    large = few.log_variance("fixed_large", t, x_t)
    np.testing.assert_allclose(large[1:, 0], np.log(beta[1:]), rtol=1e-9)
    # Ho's code: the last step's is beta_tilde_1 with the large variance, too.
    np.testing.assert_allclose(large[0, 0], np.log(beta_tilde[0]), rtol=1e-9)


def test_each_pixel_has_its_own_learned_variance(chain: Gaussian) -> None:
    v = normal(*SHAPE).clamp(-1, 1)
    got = chain.log_variance("learned_range", torch.tensor([3, 700]), v, v)
    for i, t in enumerate((3, 700)):
        upper, lower = chain.beta[t].log(), chain.beta_tilde[t].log()
        torch.testing.assert_close(got[i], lower + (v[i] + 1) / 2 * (upper - lower))


def test_an_unknown_variance_is_an_error(chain: Gaussian) -> None:
    with pytest.raises(ValueError, match="fixed_small, learned_range, got 'learned'"):
        chain.log_variance("learned", 3, normal(*SHAPE))


@pytest.mark.parametrize("schedule, T", [("linear", 20), ("linear", 2)])
def test_a_chain_that_is_too_short_is_a_usage_error(schedule, T):
    with pytest.raises(UsageError, match=f"diffusion.T {T} is too short for the {schedule}"):
        noise_chain(schedule, T)
    assert noise_chain(schedule, 100).T == 100
