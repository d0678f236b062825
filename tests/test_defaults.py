"""A backend with no options is the paper's method: its defaults are the published settings."""

from typing import Any

import pytest

from gentool.registry import options_module
from gentool.settings import flatten, to_tree

PUBLISHED: dict[str, dict[str, Any]] = {
    # Ho et al. 2020, appendix B and the authors' code: 5,000 steps of warm-up and clipping at 1.
    "ddpm": {
        "model.channels": 128,
        "model.multipliers": [1, 2, 2, 2],
        "model.blocks": 2,
        "model.attention": [16],
        "model.head_channels": 0,  # one head
        "model.dropout": 0.1,
        "model.patch_size": 1,
        "diffusion.T": 1000,
        "diffusion.schedule": "linear",
        "diffusion.shift": 1.0,
        "diffusion.prediction": "eps",
        "diffusion.loss": "eps",
        "diffusion.snr_limit": 0.0,
        "diffusion.variance": "fixed",
        "diffusion.objective": "simple",
        "train.steps": 800_000,
        "train.batch_size": 128,
        "train.optimizer": "adam",
        "train.learning_rate": 2e-4,
        "train.warmup_steps": 5000,
        "train.schedule": "constant",
        "train.beta2": 0.999,
        "train.clip_norm": 1.0,
        "train.ema_decay": 0.9999,
        "sample.steps": 1000,
        "sample.sampler": "ancestral",
        "sample.noise_scale": 1.0,
        "sample.guidance_scale": 1.0,
    },
    # Li et al. 2022 and the authors' code, their E2E experiment.
    "diffusion-lm": {
        "data.length": 64,
        "tokenizer.kind": "words",
        "tokenizer.min_count": 11,
        "model.embedding": 16,
        "model.hidden": 768,
        "model.layers": 12,
        "model.heads": 12,
        "model.dropout": 0.1,
        "model.time_features": 128,
        "diffusion.T": 2000,
        "diffusion.schedule": "sqrt",
        "train.steps": 200_000,
        "train.batch_size": 64,
        "train.optimizer": "adamw",
        "train.learning_rate": 1e-4,
        "train.warmup_steps": 0,
        "train.schedule": "linear",
        "train.weight_decay": 0.0,
        "train.clip_norm": 0.0,
        "train.ema_decay": 0.9999,
        "sample.steps": 2000,
        "sample.sampler": "ancestral",
        "sample.clamp": 1.0,
        "sample.control_steps": 3,
        "sample.control_rate": 0.1,
        "sample.fluency": 0.01,
    },
    # Ghazvininejad et al. 2019 and the authors' command for WMT.
    "mask-predict": {
        "model.hidden": 512,
        "model.feedforward": 2048,
        "model.encoder_layers": 6,
        "model.decoder_layers": 6,
        "model.heads": 8,
        "model.dropout": 0.3,
        "tokenizer.vocabularies": "joint",
        "loss.smoothing": 0.1,
        "train.steps": 300_000,
        "train.optimizer": "adamw",
        "train.learning_rate": 5e-4,
        "train.warmup_steps": 10_000,
        "train.schedule": "inverse_sqrt",
        "train.beta2": 0.999,
        "train.weight_decay": 0.01,
        "train.clip_norm": 25.0,
        "sample.steps": 10,
        "sample.length_beam": 5,
    },
    # Chang et al. 2022 and the authors' configuration for classes of ImageNet.
    "mvtm": {
        "model.hidden": 768,
        "model.layers": 24,
        "model.heads": 16,  # the code's; the paper says 8
        "model.feed_forward": 3072,
        "model.dropout": 0.1,
        "model.pre_norm": False,
        "masking.schedule": "cosine",
        "masking.label_smoothing": 0.1,
        "masking.walk": 0.0,
        "train.steps": 2_000_000,  # the code's; the paper's 300 epochs are fewer
        "train.batch_size": 256,
        "train.optimizer": "adamw",
        "train.learning_rate": 1e-4,
        "train.warmup_steps": 5000,
        "train.schedule": "constant",
        "train.beta2": 0.96,
        "train.weight_decay": 0.045,
        "train.ema_decay": 0.999,
        "sample.steps": 8,
        "sample.choice_temperature": 4.5,
        "sample.temperature": 1.0,
        "sample.order": "confidence",
        "sample.guidance_scale": 1.0,
    },
    # The same authors' image tokenizer.
    "vq": {
        "model.channels": 128,
        "model.multipliers": [1, 1, 2, 2, 4],
        "model.blocks": 2,
        "model.codes": 1024,
        "model.dimensions": 256,
        "quantizer.commitment": 0.25,
        "quantizer.entropy": 0.1,
        "quantizer.temperature": 0.01,
        "train.steps": 1_000_000,
        "train.batch_size": 256,
        "train.optimizer": "adam",
        "train.learning_rate": 1e-4,
        "train.beta2": 0.99,
        "train.ema_decay": 0.999,
    },
}


@pytest.mark.parametrize("backend", PUBLISHED)
def test_the_defaults_are_the_published_settings(backend: str) -> None:
    defaults = flatten(to_tree(options_module(backend).Config()))
    wanted = PUBLISHED[backend]
    assert {key: defaults[key] for key in wanted} == wanted
