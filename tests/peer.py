"""Folders of diffusers, small ones."""

from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

TINY = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def network(**config: Any) -> Any:
    """A UNet2DModel with no weight left at its initial value, zeros and ones least of all."""
    model, rng = diffusers.UNet2DModel(**config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.05)
    return model.eval()


def pipeline(folder: Path, scheduler: Any = None, **config: Any) -> Path:
    """A DDPMPipeline's folder."""
    scheduler = scheduler or diffusers.DDPMScheduler()
    diffusers.DDPMPipeline(network(**TINY | config), scheduler).save_pretrained(folder)
    return folder
