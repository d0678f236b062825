"""RePaint: what is known stays, what is not is drawn to fit, at the noise level of each step."""

import math
from typing import Any

import pytest
import torch
from tensors import SHAPE, clipped, noise, normal, to_zero
from torch import Tensor

from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import Denoised, ancestral, repaint
from gentool.diffusion.schedules import cosine_betas, linear_betas

T = 20
EVERYWHERE = torch.ones(1, dtype=torch.bool)


@pytest.fixture
def chain() -> Gaussian:
    return Gaussian(cosine_betas(T))


@pytest.fixture
def hole() -> Tensor:
    """Of one of the two pictures the middle, of the other the upper half."""
    hole = torch.zeros(SHAPE[0], 1, *SHAPE[2:], dtype=torch.bool)
    hole[0, :, 1:3, 1:3] = True
    hole[1, :, :2] = True
    return hole


def walk(chain: Gaussian, hole: Tensor, **options: Any) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """The result for x_0 = normal(seed 1), and what the network was asked."""
    asked: list[tuple[int, Tensor]] = []

    def denoise(x_t: Tensor, t: int) -> Denoised:
        asked.append((t, x_t))
        return clipped(x_t, t)

    x_0 = normal(*SHAPE, seed=1).clamp(-1, 1)
    rng = options.pop("rng", noise())
    return repaint(denoise, normal(*SHAPE), chain, rng, x_0=x_0, hole=hole, **options), asked


@pytest.mark.parametrize(
    "options", [{"jump": 3, "resample": 4}, {"jump": 7, "resample": 1}, {"jump": 99}, {}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_known_pixels_are_x_0_to_the_bit(
    chain: Gaussian, hole: Tensor, options: dict[str, Any], dtype: torch.dtype
) -> None:
    x_0 = normal(*SHAPE, seed=1).to(dtype)
    out = repaint(clipped, normal(*SHAPE).to(dtype), chain, noise(), x_0=x_0, hole=hole, **options)
    assert out.dtype == dtype and torch.equal(out[~hole.expand(SHAPE)], x_0[~hole.expand(SHAPE)])
    assert float((out - x_0)[hole.expand(SHAPE)].abs().min()) > 0


@pytest.mark.parametrize(
    "jump, resample, order",
    [
        (10, 2, [*range(19, 9, -1)] * 2 + [*range(9, -1, -1)] * 2),
        (8, 2, [*range(19, 15, -1)] * 2 + [*range(15, 7, -1)] * 2 + [*range(7, -1, -1)] * 2),
        (1, 3, [t for t in range(19, -1, -1) for _ in range(3)]),
        (50, 2, [*range(19, -1, -1)] * 2),
        (6, 1, [*range(19, -1, -1)]),
    ],
)
def test_each_stretch_is_walked_so_many_times(
    chain: Gaussian, hole: Tensor, jump: int, resample: int, order: list[int]
) -> None:
    heard: list[int] = []
    on_step = lambda t, *_: heard.append(t)  # noqa: E731
    _, asked = walk(chain, hole, jump=jump, resample=resample, on_step=on_step)
    assert [t for t, _ in asked] == heard == order
    assert len(order) == T * resample


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small", "learned_range"])
def test_with_no_pixel_known_and_one_walk_it_is_ancestral_sampling(
    chain: Gaussian, variance: str
) -> None:
    def learned(x_t: Tensor, t: int) -> Denoised:
        return Denoised(clipped(x_t, t).x_0, 0.5 * x_t)

    drawn = noise()
    options: dict[str, Any] = {"variance": variance, "noise_scale": 0.7}
    out = repaint(
        learned, normal(*SHAPE), chain, drawn, x_0=normal(*SHAPE), hole=EVERYWHERE, resample=1,
        **options,
    )  # fmt: skip
    mine = drawn.drawn[::2]  # every other draw is for the known part
    replay = type(drawn)(normal=lambda *_: mine.pop(0))
    expected = ancestral(learned, normal(*SHAPE), chain, replay, **options)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_everything_drawn_comes_from_rng(chain: Gaussian, hole: Tensor) -> None:
    rng, state = noise(), torch.get_rng_state()
    first, _ = walk(chain, hole, jump=5, resample=3, rng=rng)
    again, _ = walk(chain, hole, jump=5, resample=3)
    other, _ = walk(chain, hole, jump=5, resample=3, rng=noise(1))
    assert torch.equal(first, again) and torch.equal(state, torch.get_rng_state())
    where = hole.expand(SHAPE)
    assert float((first - other)[where].abs().max()) > 1e-3
    # Two draws a step, of which the last of a walk to the end adds none, and one to go back up.
    assert len(rng.drawn) == 2 * 3 * (T - 1) + 4 * 2


@pytest.mark.parametrize("jump", [1, 4, T])
def test_the_network_sees_the_noise_of_its_step_going_down_and_after_going_back_up(
    jump: int,
) -> None:
    """The known part is x_0 = 0.8, so x_t must have q(x_t | x_0)'s mean and deviation there."""
    chain, n = Gaussian(cosine_betas(T)), 40_000
    x_0 = torch.full((1, n), 0.8, dtype=torch.float64)
    known = torch.zeros(1, dtype=torch.bool)
    seen: list[tuple[int, float, float]] = []

    def look(x_t: Tensor, t: int) -> Denoised:
        seen.append((t, x_t.mean().item(), x_t.std().item()))
        return Denoised(0 * x_t)

    rng = noise(batch=1)
    x_T = chain.q_sample(x_0, T - 1, rng.normal(n))
    repaint(look, x_T, chain, rng, x_0=x_0, hole=known, jump=jump, resample=2)
    assert len(seen) == 2 * T
    for t, mean, deviation in seen:
        spread = math.sqrt(1 - chain.alpha_bar[t])
        assert mean == pytest.approx(0.8 * math.sqrt(chain.alpha_bar[t]), abs=5 * spread / 200)
        assert deviation == pytest.approx(spread, rel=0.03)


def test_what_is_drawn_keeps_its_noise_level_too() -> None:
    """Data N(0.3, 0.5^2) and their exact denoiser: x_t in the hole has that law, noised."""
    chain, n = Gaussian(linear_betas(4 * T)), 20_000
    seen: list[tuple[int, float, float]] = []

    def exact(x_t: Tensor, t: int) -> Denoised:
        seen.append((t, x_t.mean().item(), x_t.std().item()))
        alpha, variance = math.sqrt(chain.alpha_bar[t]), 1 - chain.alpha_bar[t].item()
        gain = alpha * 0.25 / (alpha**2 * 0.25 + variance)
        return Denoised(0.3 + gain * (x_t - alpha * 0.3))

    rng = noise(batch=1)
    zero = torch.zeros(1, n, dtype=torch.float64)
    repaint(exact, rng.normal(n), chain, rng, x_0=zero, hole=EVERYWHERE, jump=20, resample=3)
    for t, mean, deviation in seen:
        alpha_bar = chain.alpha_bar[t].item()
        assert mean == pytest.approx(0.3 * math.sqrt(alpha_bar), abs=0.03)
        assert deviation == pytest.approx(math.sqrt(0.25 * alpha_bar + 1 - alpha_bar), rel=0.05)


def test_the_noise_scale_leaves_the_known_part_alone(chain: Gaussian) -> None:
    """It is of the reverse steps: what is known is noised in full, or it would not fit x_t."""
    x_0, none = normal(*SHAPE, seed=1), torch.zeros(1, dtype=torch.bool)
    states: list[list[Tensor]] = []
    for scale in (0.0, 1.0):
        states.append([])
        repaint(
            to_zero, normal(*SHAPE), chain, noise(), x_0=x_0, hole=none, noise_scale=scale,
            on_step=lambda _, x_t, __: states[-1].append(x_t),
        )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
