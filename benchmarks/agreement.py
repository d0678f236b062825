"""By how much gentool and diffusers differ on the same imported network and the same noise.

    python benchmarks/agreement.py

Two networks with random weights: the configuration of google/ddpm-cifar10-32 at full size, and
one with scale-shift, 8 channels a head and attention at two levels. Each is saved by diffusers,
imported, sampled by both from one x_T, exported, loaded by diffusers, and compared again.
Differences are the largest in any pixel of a picture in -1..1; `forward` is relative to the largest
output.
"""

import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
from results import append
from torch import Tensor, nn

from gentool.backends.ddpm.algorithm import denoiser
from gentool.backends.ddpm.backend import Backend
from gentool.backends.ddpm.diffusers import read, write
from gentool.diffusion.samplers import ancestral, ddim, dpm_solver_pp
from gentool.rng import BatchRng

COMMON = {"sample_size": 32, "in_channels": 3, "out_channels": 3}
NETWORKS: dict[str, dict[str, Any]] = {
    "cifar10-32": COMMON | {
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False,
        "freq_shift": 1, "norm_eps": 1e-6,
    },
    "scale-shift": COMMON | {
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8, "resnet_time_scale_shift": "scale_shift",
    },
}  # fmt: skip


def main() -> None:
    figures = []
    for name, values in NETWORKS.items():
        torch.manual_seed(0)
        theirs = diffusers.UNet2DModel(**values).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():  # no layer is left out because it starts at 0
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            found = differences(theirs, Path(folder))
        parameters = sum(p.numel() for p in theirs.parameters())
        for what, value in found.items():
            metric = f"difference[{name}, {what}]"
            figures.append({"metric": metric, "value": value, "n": 1, "seed": 0,
                            "parameters": parameters})  # fmt: skip
            print(f"{metric:64} {value:.2e}", flush=True)
    append("diffusers-agreement", "python benchmarks/agreement.py", figures)


def differences(theirs: nn.Module, folder: Path) -> dict[str, float]:
    theirs.save_pretrained(folder / "in")
    imported = read(folder / "in")
    (folder / "out").mkdir()
    write(imported.config, imported.network, folder / "out", folder)
    back = diffusers.UNet2DModel.from_pretrained(folder / "out" / "unet", use_safetensors=True)
    ours, chain = imported.network, Backend(imported.config).chain
    x_T = BatchRng.for_samples(0, [0]).normal(3, 32, 32)
    t = torch.tensor([500])

    found = {}
    expected = theirs(x_T, t).sample
    for name, out in {"imported": ours(x_T, t), "exported": back(x_T, t).sample}.items():
        largest = expected.abs().max()
        found[f"forward, {name}"] = ((out - expected).abs().max() / largest).item()

    def run(kind: Any, steps: int, step: dict[str, Any], **options: Any) -> Tensor:
        scheduler = kind(**options)
        scheduler.set_timesteps(steps)
        x = x_T
        for at in scheduler.timesteps:
            x = scheduler.step(theirs(x, at).sample, at, x, **step).prev_sample
        return x.clamp(-1, 1)

    def compare(name: str, mine: Tensor, other: Tensor) -> None:
        found[name] = (mine.clamp(-1, 1) - other).abs().max().item()

    for spacing in ("leading", "trailing"):
        short = chain.respaced(10, spacing)
        mine = ddim(denoiser(ours, short), x_T, short, BatchRng.for_samples(1, [0]))
        for default in (False, True):
            step = {} if default else {"use_clipped_model_output": True}
            other = run(diffusers.DDIMScheduler, 10, step, timestep_spacing=spacing)
            name = f"ddim, 10 steps, {spacing}" + (", their default" if default else "")
            compare(name, mine, other)
    for steps in (10, 20):
        short = chain.respaced(steps)
        for eta, kind in ((0.0, "dpmsolver++"), (1.0, "sde-dpmsolver++")):
            rng = BatchRng([torch.Generator().manual_seed(3)])
            step = {"generator": torch.Generator().manual_seed(3)}
            other = run(
                diffusers.DPMSolverMultistepScheduler, steps, step, timestep_spacing="trailing",
                algorithm_type=kind, thresholding=True, sample_max_value=1.0,
                final_sigmas_type="zero",
            )  # fmt: skip
            mine = dpm_solver_pp(denoiser(ours, short), x_T, short, rng, eta=eta)
            compare(f"dpm++, {steps} steps" + (f", eta {eta:g}" if eta else ""), mine, other)
    for variance in ("fixed_small", "fixed_large"):
        rng = BatchRng([torch.Generator().manual_seed(3)])
        step = {"generator": torch.Generator().manual_seed(3)}
        other = run(diffusers.DDPMScheduler, 1000, step, variance_type=variance)
        mine = ancestral(denoiser(ours, chain), x_T, chain, rng, variance=variance)
        compare(f"ancestral, 1000 steps, {variance}", mine, other)
    return found


main()
