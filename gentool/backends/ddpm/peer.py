"""A ddpm checkpoint drawn by diffusers' own network and schedulers, to be measured beside ours."""

import importlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gentool.backends.ddpm import SampleConfig
from gentool.backends.ddpm.backend import Backend
from gentool.backends.ddpm.diffusers import write
from gentool.checkpoint.load import Loaded
from gentool.errors import UsageError
from gentool.rng import BatchRng
from gentool.trace import OnStep

NAME = "diffusers"
SCHEDULERS = {
    "ancestral": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
}


class Peer(Backend):
    """A ddpm backend whose `draw` is diffusers'; `network` is a UNet2DModel."""

    pipeline: Any  # DDPMPipeline

    def draw(  # type: ignore[override]
        self,
        network: nn.Module,
        rng: BatchRng,
        sample: SampleConfig,
        on_step: OnStep | None = None,
        **given: Tensor,
    ) -> Tensor:
        """As `Backend.draw`, with noise of its own after x_T. Raises UsageError for what the
        schedulers have no word for."""
        self._check_sample(sample, None, None)
        if sample.noise_scale != 1.0 or (sample.eta and sample.sampler != "ddim"):
            raise UsageError("--against diffusers takes no noise scale, and an eta of ddim alone")
        if sample.spacing == "quadratic":
            raise UsageError("diffusers has no quadratic spacing", "--spacing trailing")
        kind = getattr(importlib.import_module(NAME), SCHEDULERS[sample.sampler])
        scheduler = kind.from_config(
            self.pipeline.scheduler.config, timestep_spacing=sample.spacing
        )
        scheduler.set_timesteps(sample.steps)
        device = next(network.parameters()).device
        x = rng.normal(*self.shape).to(device)
        noise = {} if sample.sampler == "dpm++" else {"generator": rng.generators[0]}
        is_ddim = sample.sampler == "ddim"
        # The noise that agrees with the clipped x_0_hat, as in gentool.diffusion.samplers.
        more = {"eta": sample.eta, "use_clipped_model_output": True} if is_ddim else {}
        with torch.no_grad():
            for t in scheduler.timesteps:
                out = network(x, t).sample
                x = scheduler.step(out, t, x, **noise, **more).prev_sample
                if on_step:
                    on_step(lambda rows: [])
        return x.float().cpu().clamp(-1, 1)


def peer(loaded: Loaded) -> Loaded:
    """`loaded` with network and samplers of diffusers. Raises UsageError where it is not installed
    or the model has classes, BadCheckpointError for a network that it cannot represent."""
    try:
        library = importlib.import_module(NAME)
    except ImportError:
        raise UsageError(
            "--against diffusers needs diffusers, which is not installed", "pip install diffusers"
        ) from None
    if loaded.config.model.classes:
        raise UsageError("--against diffusers is for models without classes")
    with tempfile.TemporaryDirectory() as folder:
        write(loaded.config, loaded.network, Path(folder), loaded.folder)
        library.utils.logging.disable_progress_bar()
        pipeline = library.DDPMPipeline.from_pretrained(folder, use_safetensors=True)
    backend = Peer(loaded.config)
    backend.pipeline = pipeline
    return replace(loaded, backend=backend, network=pipeline.unet.float().eval())
