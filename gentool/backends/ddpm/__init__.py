"""ddpm: pixel diffusion (Ho, Jain & Abbeel 2020, https://arxiv.org/abs/2006.11239).

The configuration; imports no torch. The defaults are the paper's CIFAR-10 settings.
"""

from dataclasses import dataclass, field

from gentool.data.config import ImageData
from gentool.diffusion.config import Denoising
from gentool.nn.config import TextConfig
from gentool.settings import setting
from gentool.tokenizers.config import TokenizerConfig
from gentool.training.config import TrainConfig

KIND, DRAWS, TOKENS, BOUND = "images", True, False, True  # see gentool.registry.Options


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
    positions: bool = setting(False, "a learned vector for each position")
    classes: int = setting(0, "classes the network is told of; 0 = none", low=0)
    text: TextConfig = field(default_factory=TextConfig)
    time_embedding: str = setting(
        "add",
        "what the noise level does in a block: added before the second norm, or scale and shift "
        "after it (Nichol & Dhariwal 2021)",
        choices=("add", "scale_shift"),
    )
    # Details in which U-Nets trained elsewhere differ; their checkpoints must carry them.
    time_channels: int = setting(0, "sines and cosines of the noise level; 0 = channels", low=0)
    time_features: str = setting(
        "sin_cos", "their order: all sines first, or all cosines", choices=("sin_cos", "cos_sin")
    )
    frequency_shift: int = setting(
        1, "their frequencies end at 1/10000 (1) or one short of it (0)", low=0, high=1
    )
    norm_eps: float = setting(1e-6, "epsilon of each GroupNorm", low=0.0)
    middle_norm: bool = setting(True, "a GroupNorm before the attention in the middle")
    down_padding: str = setting(
        "after",
        "zeros at the strided convolutions: right and below, or on every side",
        choices=("after", "around"),
    )


@dataclass
class DiffusionConfig:
    """The forward process (section 4)."""

    T: int = setting(1000, "steps of the forward chain", low=1)
    schedule: str = setting("linear", "noise schedule", choices=("linear", "cosine"))
    shift: float = setting(
        1.0, "factor on the noise per signal of every step, for pictures of large things", low=1.0
    )
    prediction: str = setting("eps", "what the network returns", choices=("eps", "x_0", "v"))
    loss: str = setting(
        "eps", "whose squared error is minimised; eps = L_simple", choices=("eps", "x_0", "v")
    )
    snr_limit: float = setting(
        0.0, "cap on the loss's weight per noise level (Min-SNR); 0 = none", low=0.0
    )
    variance: str = setting(
        "fixed",
        "variance of the reverse step: fixed or learned",
        choices=("fixed", "learned_range"),
    )
    objective: str = setting(
        "simple",
        "simple; vlb = the variational bound; hybrid = both, the bound for the learned variance",
        choices=("simple", "hybrid", "vlb"),
    )
    drop_condition: float = setting(
        0.1, "share of training examples that do not show their class or caption", low=0.0, high=1.0
    )


@dataclass
class SampleConfig(Denoising):
    """How to sample: the options of `gentool sample ddpm`, stored in the checkpoint."""

    variance: str = setting(
        "auto",
        "noise of the ancestral sampler: beta or beta_tilde; auto = learned, else fixed_large",
        choices=("auto", "fixed_large", "fixed_small"),
    )
    guidance_scale: float = setting(
        1.0, "classifier-free guidance, out_u + X (out_c - out_u); 1 = none", low=0.0
    )
    guidance_from: float = setting(
        0.0,
        "guide from this share of the chain on, 0 = the least noisy step",
        low=0.0,
        high=1.0,
        idle=("guidance_scale", 1.0),
    )
    guidance_to: float = setting(
        1.0,
        "guide up to this share of the chain",
        low=0.0,
        high=1.0,
        idle=("guidance_scale", 1.0),
    )
    negative: str = setting("", "what guidance leads away from, in place of no caption")


@dataclass
class DecodeConfig(SampleConfig):
    """The options of `gentool decode ddpm`: how to sample, and how to fill a hole (RePaint)."""

    jump: int = setting(
        10,
        "an edit: steps walked before noise is added again (10)",
        low=1,
        idle=("resample", 1),
    )
    resample: int = setting(10, "an edit: times each such stretch is walked (10)", low=1)

    of_edits = ("jump", "resample")
    not_of_edits = ("sampler", "eta")  # RePaint's steps are ancestral

    @property
    def passes(self) -> int:
        """How often an edit walks each step."""
        return self.resample


@dataclass
class Config:
    """Everything a ddpm recipe can set."""

    data: ImageData = field(default_factory=ImageData)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=800_000, batch_size=128, learning_rate=2e-4, warmup_steps=5000
        )
    )
    sample: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self) -> None:
        self.tokenizer = self.model.text.tokenizer(self.tokenizer)

    @property
    def has_tokens(self) -> bool:
        """Whether pictures are drawn from captions: else the tokenizer section is not in use."""
        return self.model.text.encoder != "none"
