"""mvtm: masked visual token modelling (MaskGIT, Chang et al. 2022, https://arxiv.org/abs/2202.04200).

The configuration; imports no torch. The defaults are the paper's for ImageNet at 256 × 256.
"""

from dataclasses import dataclass, field

from gentool.data.config import ImageData
from gentool.errors import UsageError
from gentool.nn.config import TextConfig, check_heads
from gentool.settings import setting
from gentool.tokenizers.config import PictureTokens
from gentool.training.config import TrainConfig

KIND, DRAWS, TOKENS, BOUND = "images", True, True, False  # see gentool.registry.Options


@dataclass
class ModelConfig:
    """The transformer. Raises UsageError."""

    hidden: int = setting(768, "width of the transformer", low=8)
    layers: int = setting(24, "layers of the transformer", low=1)
    heads: int = setting(16, "attention heads per layer (the code's; the paper says 8)", low=1)
    feed_forward: int = setting(3072, "width of each feed-forward net", low=8)
    dropout: float = setting(0.1, "dropout", low=0.0, high=0.9)
    norm_eps: float = setting(1e-12, "epsilon of each LayerNorm", low=0.0)
    pre_norm: bool = setting(False, "normalise before attention and feed-forward, not after")
    classes: int = setting(0, "classes the network is told of; 0 = none", low=0)
    text: TextConfig = field(default_factory=TextConfig)

    def __post_init__(self) -> None:
        if self.classes and self.text.encoder != "none":
            raise UsageError(
                "model.classes and model.text are two ways to say what to draw", "choose one"
            )
        check_heads("model", "hidden", self.hidden, self.heads)


@dataclass
class MaskingConfig:
    """How the transformer learns (section 3.1): stage two."""

    schedule: str = setting(
        "cosine",
        "share of masked tokens over a uniform draw",
        choices=("cosine", "arccos", "square", "cubic"),
    )
    label_smoothing: float = setting(0.1, "label smoothing", low=0.0, high=0.99)
    walk: float = setting(
        0.0,
        "beside random masks, X times the loss of those that drawing meets in undecided order, in "
        "`sample.steps` steps",
        low=0.0,
    )
    walk_share: float = setting(
        1.0, "of each batch this share walks, one example at least", low=0.0, high=1.0
    )
    drop_condition: float = setting(
        0.0, "share of training examples that do not show their class or caption", low=0.0, high=1.0
    )


@dataclass
class SampleConfig:
    """How to sample: the options of `gentool sample mvtm`, stored in the checkpoint."""

    steps: int = setting(8, "decoding steps", low=1)
    choice_temperature: float = setting(
        4.5,
        "Gumbel noise on the confidence at the first step, falling to 0",
        low=0.0,
        idle=("order", "halton", "undecided"),
    )
    temperature: float = setting(1.0, "of the draw of each token; above 1 is more even", low=1e-3)
    top_p: float = setting(
        1.0, "draw among the likeliest tokens that reach this probability", low=1e-6, high=1.0
    )
    entropy_cutoff: float = setting(
        0.0,
        "draw no token that is less likely than X exp(-H), H the entropy of the draw; 0 = any",
        low=0.0,
        high=1.0,
    )
    order: str = setting(
        "confidence",
        "which tokens are kept: the surest, by a fixed Halton sequence, or one a step that is "
        "least decided",
        choices=("confidence", "halton", "undecided"),
    )
    guidance_scale: float = setting(
        1.0, "classifier-free guidance, l_u + X (l_c - l_u); 1 = none", low=0.0
    )
    guidance_schedule: str = setting(
        "constant",
        "the scale over the steps: constant, or from 1 up to it",
        choices=("constant", "linear"),
        idle=("guidance_scale", 1.0),
    )


@dataclass
class DecodeConfig(SampleConfig):
    """The options of `gentool decode mvtm`: how to sample, and how to edit."""

    strength: float = setting(
        1.0, "an edit: share of the region's tokens drawn anew (1)", low=0.0, high=1.0
    )
    blend: bool = setting(
        False,
        "an edit: keep the picture's own pixels outside the region; without it they come back as "
        "the tokenizer reconstructs them",
    )
    candidates: int = setting(
        4,
        "with --blend: times the region is drawn, to keep one that continues into the pixels "
        "around it (4)",
        low=1,
        high=1000,
        idle=("blend", False),
    )

    passes = 1  # how often an edit walks each step
    of_edits = ("strength", "blend", "candidates")
    not_of_edits = ()


@dataclass
class Config:
    """Everything an mvtm recipe can set. Raises UsageError."""

    data: ImageData = field(default_factory=ImageData)
    tokenizer: PictureTokens = field(default_factory=PictureTokens)
    model: ModelConfig = field(default_factory=ModelConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=2_000_000,  # the code's; the paper's 300 epochs are 1,500,000
            batch_size=256,
            learning_rate=1e-4,
            warmup_steps=5000,
            optimizer="adamw",
            beta2=0.96,
            weight_decay=0.045,
            ema_decay=0.999,
        )  # fmt: skip
    )
    sample: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self) -> None:
        if self.tokenizer.cache and not self.tokenizer.image:
            raise UsageError(
                "tokenizer.cache holds tokens of a tokenizer that is there already",
                "--set tokenizer.image=RUN names it",
            )
        if self.masking.walk and self.sample.order != "undecided":
            raise UsageError(
                f"masking.walk is of the undecided order, sample.order is {self.sample.order}",
                "--set sample.order=undecided, or no walk",
            )
