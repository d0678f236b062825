"""diffusion-lm-control: a classifier of attributes on the noised embeddings of a diffusion-lm.

It steers that checkpoint and no other (Li et al. 2022, section 5). The configuration; imports no
torch at the top.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from gentool.data.config import TextData
from gentool.errors import BadDataError, UsageError
from gentool.nn.config import check_heads, check_time_features
from gentool.settings import setting
from gentool.tokenizers.config import TokenizerConfig
from gentool.training.config import TrainConfig


@dataclass
class LmConfig:
    """The diffusion-lm that is steered. All but `checkpoint` is read from it."""

    checkpoint: str = setting(
        "", "diffusion-lm checkpoint that is to be steered; empty: diffusion-lm-scenes"
    )
    embeddings: str = setting("", "SHA-256 of its embeddings (read from it)")
    embedding: int = setting(0, "dimensions of its embeddings (read from it)", low=0)
    T: int = setting(0, "steps of its chain (read from it)", low=0)
    schedule: str = setting("", "its noise schedule (read from it)")


@dataclass
class ModelConfig:
    """The classifier: a small transformer over all positions. Raises UsageError."""

    hidden: int = setting(128, "width of the transformer", low=8)
    layers: int = setting(3, "layers of the transformer", low=1)
    heads: int = setting(4, "attention heads per layer", low=1)
    dropout: float = setting(0.1, "dropout", low=0.0, high=0.9)
    time_features: int = setting(128, "sines and cosines that tell the noise level", low=2)
    values: tuple[str, ...] = setting((), "attribute=value it knows; empty: all in the data")

    def __post_init__(self) -> None:
        check_heads("model", "hidden", self.hidden, self.heads)
        check_time_features(self.time_features)


@dataclass
class Config:
    """Everything a diffusion-lm-control recipe can set. Raises UsageError."""

    data: TextData = field(default_factory=TextData)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    lm: LmConfig = field(default_factory=LmConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=10_000,
            batch_size=64,
            learning_rate=5e-4,
            schedule="cosine",
            warmup_steps=200,
            ema_decay=0.999,
            sample_every=0,
        )  # fmt: skip
    )

    def __post_init__(self) -> None:
        if self.data.layout == "block":
            raise UsageError(
                "data.layout 'block' puts several texts in a row, each with its own attributes",
                "--set data.layout=pad",
            )


def completed(config: Any) -> Any:
    """`config` with what it takes from the diffusion-lm checkpoint and from the data.

    Raises as `find_checkpoint` and `load_checkpoint`, and BadDataError for data without attributes.
    """
    from gentool.checkpoint.config import run_of
    from gentool.checkpoint.load import find_checkpoint, load_checkpoint
    from gentool.checkpoint.weights import tensors_hash
    from gentool.data.holdout import training_attributes

    path = find_checkpoint(config.lm.checkpoint or None, "diffusion-lm", "--set lm.checkpoint=")
    loaded = load_checkpoint(path, "diffusion-lm")
    assert loaded.tokenizer
    theirs = loaded.config
    lm = LmConfig(
        config.lm.checkpoint,
        tensors_hash({"E": loaded.network.get_parameter("embedding.weight")}),
        theirs.model.embedding,
        theirs.diffusion.T,
        theirs.diffusion.schedule,
    )
    data = replace(config.data, length=theirs.data.length)
    name = str(run_of(path) / "tokenizer")
    tokenizer = replace(theirs.tokenizer, kind=loaded.tokenizer.kind, name=name, revision="")
    values = config.model.values or training_attributes(data)
    if not values:
        raise BadDataError(
            f"no attributes in {', '.join(data.spec)}",
            "--set data.attributes=COLUMN or --set data.mr_column=COLUMN",
        )
    model = replace(config.model, values=tuple(values))
    return replace(config, data=data, tokenizer=tokenizer, lm=lm, model=model)
