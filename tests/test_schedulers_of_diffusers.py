"""Our samplers beside diffusers' schedulers: one network function, one x_T, one noise; and what
becomes of a scheduler in a folder that is read and written.

diffusers computes its tables in float32 and ours are float64, so the pictures differ in the fourth
digit. Each test prints by how much.
"""

import math
from typing import Any

import pytest
import torch
from peer import pipeline
from tensors import noise
from torch import Tensor

from gentool.backends.ddpm.algorithm import denoiser
from gentool.backends.ddpm.diffusers import not_written, read, write
from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import ancestral, ddim, dpm_solver_pp
from gentool.diffusion.schedules import SCHEDULES

diffusers = pytest.importorskip("diffusers")

T = 1000
CLOSE = 1e-3  # in any pixel of pictures in -1..1
NAMES = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
BETAS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


class Toy(torch.nn.Module):
    """A fixed function of a pixel and its neighbours whose guesses of x_0 are often clipped."""

    def __init__(self, schedule: str, prediction: str, learned: bool = False, T: int = T) -> None:
        super().__init__()
        self.chain, self.prediction, self.learned = (
            Gaussian(SCHEDULES[schedule](T)),
            prediction,
            learned,
        )
        rng = torch.Generator().manual_seed(5)
        self.kernel = torch.randn(3, 3, 3, 3, generator=rng) / 3

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        mixed = torch.nn.functional.conv2d(x_t, self.kernel, padding=1)
        alpha_bar = self.chain.alpha_bar[t].float()[:, None, None, None]
        x_0 = 0.8 * alpha_bar.sqrt() * x_t + 0.6 * torch.sin(2 * mixed)
        out = x_0
        if self.prediction != "x_0":
            out = self.chain.eps_from_x_0(x_t, t, x_0)
        if self.prediction == "v":
            out = self.chain.v(x_0, t, out)
        return torch.cat([out, torch.sin(mixed)], dim=1) if self.learned else out


def scheduler(
    kind: Any, schedule: str, prediction: str, steps: int, T: int = T, **more: Any
) -> Any:
    made = kind(
        num_train_timesteps=T,
        beta_start=1e-4 * 1000 / T,
        beta_end=0.02 * 1000 / T,
        beta_schedule=BETAS[schedule],
        prediction_type=NAMES[prediction],
        **more,
    )
    made.set_timesteps(steps)
    return made


def theirs(scheduler: Any, network: Toy, x_T: Tensor, told: list[int], **step: Any) -> Tensor:
    """The loop of diffusers' pipelines. `told` hears what the network is told."""
    x = x_T
    for t in scheduler.timesteps:
        told.append(int(t))
        x = scheduler.step(network(x, t.expand(len(x))), t, x, **step).prev_sample
    return x.clamp(-1, 1)


@pytest.fixture
def x_T() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def check(name: str, ours: Tensor, other: Tensor) -> None:
    difference = float((ours.clamp(-1, 1) - other).abs().max())
    print(f"{name}: {difference:.2e}")
    assert difference <= CLOSE, name
    inside = (ours.abs() < 0.99).float().mean()
    assert float(inside) > 0.1 and float(ours.std()) > 0.1, "a picture, not black and white alone"


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(
    "schedule, prediction",  # not eps of cosine: at alpha_bar = 2e-9 float32 is off by a percent
    [*(("linear", name) for name in NAMES), ("cosine", "x_0"), ("cosine", "v")],
)
def test_ten_steps_of_ddim(x_T: Tensor, spacing: str, schedule: str, prediction: str) -> None:
    """Theirs takes its noise from the clipped x_0, as ours does, only when told to."""
    network, told = Toy(schedule, prediction), list[int]()
    chain = network.chain.respaced(10, spacing)
    ours = ddim(denoiser(network, chain, prediction), x_T, chain, noise())
    made = scheduler(
        diffusers.DDIMScheduler, schedule, prediction, 10,
        timestep_spacing=spacing, clip_sample=True, set_alpha_to_one=True,
    )  # fmt: skip
    other = theirs(made, network, x_T, told, use_clipped_model_output=True)
    assert told == chain.timesteps.tolist()[::-1]
    name = f"ddim {spacing} {schedule} {prediction}"
    check(name, ours, other)
    default = float((ours.clamp(-1, 1) - theirs(made, network, x_T, [])).abs().max())
    print(f"{name}, their default: {default:.2e}")


@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("schedule, length", [("linear", 50), ("cosine", 50), ("linear", 1000)])
def test_ancestral_with_the_same_noise(
    x_T: Tensor, schedule: str, length: int, variance: str, prediction: str
) -> None:
    """All steps of a short chain, and 20 of a long one that end at step 0: where they end above it
    theirs adds noise to the picture itself, unless the variance is the small one."""
    steps = 50 if length == 50 else 20
    network = Toy(schedule, prediction, variance == "learned_range", T=length)
    chain, rng = network.chain.respaced(steps, "leading"), noise(3, dtype=torch.float32)
    ours = ancestral(denoiser(network, chain, prediction), x_T, chain, rng, variance=variance)
    made = scheduler(
        diffusers.DDPMScheduler, schedule, prediction, steps, T=length,
        variance_type=variance, timestep_spacing="leading", clip_sample=True,
    )  # fmt: skip
    generator, told = torch.Generator().manual_seed(3), list[int]()
    other = theirs(made, network, x_T, told, generator=generator)
    assert told == chain.timesteps.tolist()[::-1] and len(rng.drawn) == steps - 1
    check(f"ancestral {schedule} {steps} of {length} {variance} {prediction}", ours, other)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs
@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("kind, eta", [("dpmsolver++", 0.0), ("sde-dpmsolver++", 1.0)])
@pytest.mark.parametrize("steps", [10, 20])
def test_dpm_solver_plus_plus(
    x_T: Tensor, steps: int, kind: str, eta: float, prediction: str
) -> None:
    """Theirs is told what ours always does: the multistep midpoint rule, a last step of first order
    to no noise at all, and steps that end at T - 1. Its `thresholding` with a largest value of 1 is
    clipping to -1..1, which it has no other option for.
    """
    network, told = Toy("linear", prediction), list[int]()
    chain = network.chain.respaced(steps)
    rng = noise(3, dtype=torch.float32)
    ours = dpm_solver_pp(denoiser(network, chain, prediction), x_T, chain, rng, eta=eta)
    made = scheduler(
        diffusers.DPMSolverMultistepScheduler, "linear", prediction, steps,
        algorithm_type=kind, solver_order=2, solver_type="midpoint",
        timestep_spacing="trailing", final_sigmas_type="zero", lower_order_final=True,
        euler_at_final=False, thresholding=True, sample_max_value=1.0,
        lambda_min_clipped=-math.inf,
    )  # fmt: skip
    other = theirs(made, network, x_T, told, generator=torch.Generator().manual_seed(3))
    assert told == chain.timesteps.tolist()[::-1]
    check(f"{kind} {steps} steps {prediction}", ours, other)


@pytest.mark.parametrize(
    "scheduler, diffusion, sample",
    [
        ({}, ["linear", "eps", 1000], ["fixed_small", "leading", "ancestral"]),
        (
            {"variance_type": "fixed_large", "timestep_spacing": "trailing"},
            ["linear", "eps", 1000],
            ["fixed_large", "trailing", "ancestral"],
        ),
        (
            {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
            ["cosine", "v", 1000],
            ["fixed_small", "leading", "ancestral"],
        ),
        (
            {"num_train_timesteps": 200, "beta_start": 5e-4, "beta_end": 0.1}
            | {"prediction_type": "sample"},
            ["linear", "x_0", 200],
            ["fixed_small", "leading", "ancestral"],
        ),
    ],
    ids=str,
)
def test_the_chain_is_the_schedulers(scheduler, diffusion, sample, tmp_path):
    theirs = diffusers.DDPMScheduler(**scheduler)
    found = read(pipeline(tmp_path / "a", theirs))
    config = found.config
    assert [config.diffusion.schedule, config.diffusion.prediction, config.diffusion.T] == diffusion
    assert [config.sample.variance, config.sample.spacing, config.sample.sampler] == sample
    assert config.sample.steps == config.diffusion.T
    (tmp_path / "b").mkdir()
    write(config, found.network, tmp_path / "b", tmp_path)
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "b").scheduler
    torch.testing.assert_close(again.betas, theirs.betas, rtol=1e-6, atol=0)
    ours = {k: v for k, v in again.config.items() if not k.startswith("_")}
    assert ours == pytest.approx({k: theirs.config[k] for k in ours})


def test_a_spacing_that_they_lack_is_left_out_and_said(tmp_path):
    found = read(pipeline(tmp_path / "a", diffusers.DDPMScheduler()))
    found.config.sample.spacing = "quadratic"
    (tmp_path / "b").mkdir()
    write(found.config, found.network, tmp_path / "b", tmp_path)
    assert read(tmp_path / "b").config.sample.spacing == "trailing"
    assert not_written(found.config) == ["spacing quadratic"]


def test_a_ddim_scheduler_and_a_learned_variance(tmp_path):
    ddim = pipeline(tmp_path / "ddim", diffusers.DDIMScheduler())
    assert read(ddim).config.sample.sampler == "ddim"
    learned = diffusers.DDPMScheduler(variance_type="learned_range")
    config = read(pipeline(tmp_path / "learned", learned, out_channels=6)).config
    assert (config.diffusion.variance, config.sample.variance) == ("learned_range", "auto")
