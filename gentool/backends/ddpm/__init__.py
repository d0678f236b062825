"""ddpm: pixel diffusion (Ho, Jain & Abbeel 2020, https://arxiv.org/abs/2006.11239).

The configuration; imports no torch. The defaults are the paper's CIFAR-10 settings.
"""

from dataclasses import dataclass, field

from gentool.data.config import ImageData
from gentool.settings import setting
from gentool.training.config import TrainConfig


@dataclass
class ModelConfig:
    """The U-Net (appendix B): 35.7M parameters as it stands."""

    channels: int = setting(128, "channels at full resolution", low=8)
    multipliers: tuple[int, ...] = setting((1, 2, 2, 2), "channels per level, × channels", low=1)
    blocks: int = setting(2, "residual blocks per level", low=1)
    attention: tuple[int, ...] = setting(
        (16,), "resolutions, in patches, with self-attention", low=1
    )
    head_channels: int = setting(0, "channels per attention head; 0 = one head", low=0)
    norm_groups: int = setting(32, "groups of each GroupNorm", low=1)
    dropout: float = setting(0.1, "dropout in residual blocks", low=0.0, high=0.9)
    patch_size: int = setting(1, "pixels per side of what the network sees as one position", low=1)


@dataclass
class DiffusionConfig:
    """The forward process (section 4)."""

    T: int = setting(1000, "steps of the forward chain", low=1)
    schedule: str = setting("linear", "noise schedule", choices=("linear", "cosine"))
    prediction: str = setting("eps", "what the network returns", choices=("eps", "x_0", "v"))
    loss: str = setting(
        "eps", "whose squared error is minimised; eps = L_simple", choices=("eps", "x_0", "v")
    )
    snr_limit: float = setting(
        0.0, "cap on the loss's weight per noise level (Min-SNR); 0 = none", low=0.0
    )


@dataclass
class SampleConfig:
    """How to sample: the options of `gentool sample ddpm`, stored in the checkpoint."""

    steps: int = setting(1000, "denoising steps", low=1)
    sampler: str = setting("ancestral", "sampler", choices=("ancestral", "ddim"))
    variance: str = setting(
        "fixed_large",
        "noise added by the ancestral sampler: beta or beta_tilde",
        choices=("fixed_large", "fixed_small"),
    )
    eta: float = setting(
        0.0, "noise of the ddim sampler: 0 = none, 1 = ancestral", low=0.0, high=1.0
    )
    noise_scale: float = setting(1.0, "factor on the noise added while sampling", low=0.0)


@dataclass
class Config:
    """Everything a ddpm recipe can set."""

    data: ImageData = field(default_factory=ImageData)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=800_000, batch_size=128, learning_rate=2e-4, warmup_steps=5000
        )
    )
    sample: SampleConfig = field(default_factory=SampleConfig)
