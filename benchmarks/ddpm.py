"""gentool's U-Net beside diffusers': the same weights, the same batch, in turns, in one process.

    python benchmarks/ddpm.py forward train memory scenes     # on a CPU or a GPU
    python benchmarks/ddpm.py quality --minutes 10            # two trainings, one after the other

forward, train: the 35.7M-parameter CIFAR-10 network (diffusers' `google/ddpm-cifar10-32`).
memory: peak resident memory of one training step of each, in processes of their own.
scenes: a training step of the `ddpm-scenes` network beside diffusers U-Nets of as many parameters
and FLOPs per image, one of its defaults and a lean one. quality: ours and the former trained for as
long by the recipe `ddpm-scenes-plain`, theirs in the faster of its precisions, then measured with
`read_scene`.
"""

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from results import append
from timing import alternate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gentool.backends.ddpm import Config
from gentool.backends.ddpm.algorithm import training_loss
from gentool.backends.ddpm.backend import Backend
from gentool.backends.ddpm.diffusers import write
from gentool.data.scenes import Scenes, read_scene
from gentool.device import has_bf16, pick_device
from gentool.pixels import to_uint8
from gentool.resources import read_recipe
from gentool.rng import BatchRng
from gentool.settings import build
from gentool.training.optimizer import learning_rate, make_optimizer, update_average

ModelFn = Callable[[Tensor, Tensor], Tensor]
PLAIN = "ddpm-scenes-plain"
# diffusers' networks for scenes; widths were searched for. That of its defaults (two blocks a
# level, attention at three levels) has 3.2 % more parameters than ours and 1.8 % fewer FLOPs; one
# of a block a level and attention at one has 3.8 % and 1.9 % fewer.
SCENES_UNET = {"sample_size": 32, "norm_num_groups": 8, "block_out_channels": (8, 8, 32, 104)}
LEAN_UNET = SCENES_UNET | {
    "block_out_channels": (8, 8, 56, 120),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "child"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--side", default="")
    options = parser.parse_args()
    for part in options.parts:
        figures = PARTS[part](options)
        facts = {"threads": torch.get_num_threads(), "device": str(pick_device("auto"))}
        figures = [figure | facts for figure in figures]
        if part != "child":
            append(f"beside-diffusers-{part}", f"python benchmarks/ddpm.py {part}", figures)
        for figure in figures:
            print({k: v for k, v in figure.items() if k != "facts"})


# The two networks -------------------------------------------------------------------------------


def cifar_pair() -> tuple[nn.Module, nn.Module]:
    """The 35.7M-parameter network of both, with the same random weights."""
    config = build(Config, {"model": {"dropout": 0.0}})
    torch.manual_seed(0)
    ours = Backend(config).network()
    for parameter in ours.parameters():  # no layer starts at zero, so that all of them count
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    with tempfile.TemporaryDirectory() as folder:
        write(config, ours, Path(folder), Path("benchmark"))
        theirs = UNet2DModel.from_pretrained(Path(folder) / "unet", use_safetensors=True)
    device = pick_device("auto")
    return ours.to(device).eval(), theirs.to(device).eval()


def scenes_pair() -> tuple[nn.Module, nn.Module]:
    """The network of the ddpm-scenes recipe, and diffusers' of about its size and work."""
    torch.manual_seed(0)
    device = pick_device("auto")
    ours, theirs = Backend(scenes_config()).network(), UNet2DModel(**SCENES_UNET)
    return ours.to(device), theirs.to(device)


def scenes_config(recipe: str = "ddpm-scenes") -> Config:
    _, tree = read_recipe(recipe)
    return build(Config, {name: value for name, value in tree.items() if name != "backend"})


def model_fn(network: nn.Module) -> ModelFn:
    if isinstance(network, UNet2DModel):
        return lambda x_t, t: network(x_t, t).sample
    return network


def ceiling() -> float:
    """GFLOP/s of a 2048³ matrix product in fp32: a measure of this machine."""
    a = torch.randn(2048, 2048, device=pick_device("auto"))
    seconds = alternate({"matmul": lambda: a @ a}, 5)["matmul"]
    return round(2 * 2048**3 / seconds / 1e9, 1)


def describe(network: nn.Module) -> dict[str, Any]:
    """Parameters, and FLOPs (two a multiplication) of one forward pass of one image."""
    with torch.device("meta"):  # where attention is counted, which a CPU's own kernel hides
        x_t, t = torch.zeros(1, 3, 32, 32), torch.zeros(1).long()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model_fn(copy.deepcopy(network).to("meta"))(x_t, t)
    parameters = sum(p.numel() for p in network.parameters())
    gflop = round(counter.get_total_flops() / 1e9, 4)
    return {"parameters": parameters, "gflop": gflop, "matmul_gflops": ceiling()}


# What is timed ----------------------------------------------------------------------------------


def batch(n: int) -> tuple[Tensor, Tensor]:
    rng = BatchRng.for_samples(0, range(n))
    device = pick_device("auto")
    return rng.normal(3, 32, 32).to(device), rng.integers(1000).to(device)


def rates(seconds: dict[str, float], n: int, base: str, repeats: int) -> list[dict[str, Any]]:
    """Images per second of each side, and its ratio to side `base`."""
    return [
        {"metric": f"images per second[{name}]", "value": round(n / value, 2),
         "ratio": round(seconds[base] / value, 3), "batch": n, "repeats": repeats, "seed": 0}
        for name, value in seconds.items()
    ]  # fmt: skip


def forward(options: Any) -> list[dict[str, Any]]:
    """One forward pass of 16 images; the figures also hold by how much the outputs differ."""
    ours, theirs = cifar_pair()
    x_t, t = batch(16)

    @torch.no_grad()
    def run(network: nn.Module, bf16: bool) -> Tensor:
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=bf16):
            return model_fn(network)(x_t, t).float()

    sides = {
        "diffusers fp32": lambda: run(theirs, False),
        "gentool fp32": lambda: run(ours, False),
        "gentool bf16": lambda: run(ours, True),
    }
    if torch.cuda.is_available():
        compiled, peer = torch.compile(ours), torch.compile(theirs)
        sides |= {
            "diffusers bf16": lambda: run(theirs, True),
            "diffusers bf16 compiled": lambda: run(peer, True),
            "gentool bf16 compiled": lambda: run(compiled, True),
        }
    figures = rates(alternate(sides, options.repeats), 16, "diffusers fp32", options.repeats)
    expected = run(theirs, False)
    for figure, side in zip(figures, sides.values(), strict=True):
        figure["difference"] = ((side() - expected).norm() / expected.norm()).item()
        figure |= describe(theirs if "diffusers" in figure["metric"] else ours)
        figure["bf16 in hardware"] = has_bf16(x_t.device)
    return figures


def step(network: nn.Module, x_0: Tensor, t: Tensor, bf16: bool = False) -> Callable[[], None]:
    """One update of Adam on the squared error, as the training loop takes it."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-6, fused=True)
    network.train()

    def run() -> None:
        with torch.autocast(x_0.device.type, torch.bfloat16, enabled=bf16):
            loss = (model_fn(network)(x_0, t) - x_0).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return run


def train(options: Any) -> list[dict[str, Any]]:
    """One training step on 16 images."""
    ours, theirs = cifar_pair()
    x_0, t = batch(16)
    sides = {"diffusers fp32": step(theirs, x_0, t), "gentool fp32": step(ours, x_0, t)}
    if has_bf16(x_0.device):
        sides["gentool bf16"] = step(copy.deepcopy(ours), x_0, t, bf16=True)
    figures = rates(alternate(sides, options.repeats), 16, "diffusers fp32", options.repeats)
    networks = [theirs, *[ours] * (len(sides) - 1)]
    return [f | describe(n) for f, n in zip(figures, networks, strict=True)]


def scenes(options: Any) -> list[dict[str, Any]]:
    """One training step of the built-in recipe's network on 32 images."""
    ours, theirs = scenes_pair()
    lean = UNet2DModel(**LEAN_UNET).to(pick_device("auto"))
    x_0, t = batch(32)
    sides = {
        "diffusers fp32": step(theirs, x_0, t),
        "diffusers fp32, lean": step(lean, x_0, t),
        "gentool fp32": step(ours, x_0, t),
    }
    networks = [theirs, lean, ours]
    if has_bf16(x_0.device):
        for name, network in (("diffusers bf16", theirs), ("gentool bf16", ours)):
            sides[name] = step(copy.deepcopy(network), x_0, t, bf16=True)
            networks.append(network)
    times = alternate(sides, 3 * options.repeats)
    figures = rates(times, 32, "diffusers fp32", 3 * options.repeats)
    return [f | describe(n) for f, n in zip(figures, networks, strict=True)]


def memory(options: Any) -> list[dict[str, Any]]:
    """Peak memory of three training steps on 16 images, each side in its own process."""
    figures = []
    for side in ("diffusers", "gentool"):
        command = [sys.executable, __file__, "child", "--side", side]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        value = float(run.stdout.split()[0])
        figures.append({"metric": f"peak MiB[{side}]", "value": value, "batch": 16})
    return figures


def child(options: Any) -> list[dict[str, Any]]:
    pair = dict(zip(("gentool", "diffusers"), cifar_pair(), strict=True))
    network = pair.pop(options.side)
    pair.clear()
    x_0, t = batch(16)
    run = step(network, x_0, t)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        run()
    if torch.cuda.is_available():
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        # Not getrusage: that is never below what the process that began this one had in use.
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) / 2**10)
    return []


def quality(options: Any) -> list[dict[str, Any]]:
    """Both networks trained by the recipe for as many minutes, then 512 samples of each read."""
    figures, n = [], 512
    for name, network in zip(("gentool", "diffusers"), scenes_pair(), strict=True):
        device = pick_device("auto")  # on a CPU theirs is slower in bf16
        bf16 = has_bf16(device) and (name == "gentool" or device.type == "cuda")
        images, average = fit(network, options.minutes * 60, bf16)
        backend = Backend(scenes_config(PLAIN))
        peer = Peer(average) if name == "diffusers" else average
        drawn = backend.draw(peer, BatchRng.for_samples(0, range(n)), backend.config.sample)
        valid = sum(read_scene(image) is not None for image in to_uint8(drawn)) / n
        rate = round(images / options.minutes / 60, 1)
        facts = {"n": n, "seed": 0, "minutes": options.minutes, "bf16": bf16, **describe(network)}
        figures += [
            {"metric": f"images per second[{name}]", "value": rate, **facts},
            {"metric": f"scene_validity[{name}]", "value": valid, **facts},
        ]
    return figures


class Peer(nn.Module):
    """diffusers' network called as gentool's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.network(x_t, t).sample


def fit(network: nn.Module, seconds: float, bf16: bool) -> tuple[int, nn.Module]:
    """Train by the recipe for so long: images seen, and the average of the weights.

    The learning rate falls over the time instead of over steps, to 0 at its end for both.
    """
    config = scenes_config(PLAIN)
    recipe, diffusion, chain = config.train, config.diffusion, Backend(config).chain
    optimizer = make_optimizer(network, recipe)
    average = copy.deepcopy(network)
    data, n = Scenes("train"), recipe.batch_size
    device = next(network.parameters()).device
    started, number = time.monotonic(), 0
    network.train()
    while (done := (time.monotonic() - started) / seconds) < 1:
        rng = BatchRng.for_samples(1, range(number * n, (number + 1) * n))
        pixels = torch.stack([torch.from_numpy(data[number * n + i].image) for i in range(n)])
        x_0 = pixels.permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
        t, eps = rng.integers(chain.T).to(device), rng.normal(3, 32, 32).to(device)
        # An early step knows only its number: the warm-up is in steps.
        at = max(number if number < recipe.warmup_steps else 0, int(done * recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(at, recipe)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = training_loss(
                model_fn(network), x_0, t, eps, chain, prediction=diffusion.prediction,
                loss=diffusion.loss, snr_limit=diffusion.snr_limit,
            )["simple"].mean()  # fmt: skip
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        update_average(average, network, number, recipe.ema_decay)
        number += 1
    return number * n, average


PARTS: dict[str, Callable[[Any], list[dict[str, Any]]]] = {
    "forward": forward,
    "train": train,
    "memory": memory,
    "scenes": scenes,
    "quality": quality,
    "child": child,
}
main()
