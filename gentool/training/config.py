"""The [train] section of every recipe. Imports no torch: help text is made from it."""

from dataclasses import dataclass

from gentool.errors import UsageError
from gentool.settings import setting


@dataclass
class TrainConfig:
    """How to train. One step is one optimizer update.

    A step sees batch_size × accumulate × processes examples. A resumed run may divide that number
    up in another way, but not change it (training/start.py).
    """

    steps: int = setting(100_000, "optimizer steps in all", low=1, fixed=False)
    batch_size: int = setting(64, "examples per process and micro-batch", low=1, fixed=False)
    accumulate: int = setting(1, "micro-batches per optimizer step", low=1, fixed=False)
    learning_rate: float = setting(1e-4, "peak learning rate", low=0.0)
    schedule: str = setting(
        "constant",
        "learning rate after warm-up",
        choices=("constant", "cosine", "linear", "inverse_sqrt"),
    )
    warmup_steps: int = setting(0, "steps of linear warm-up", low=0)
    optimizer: str = setting("adam", "optimizer", choices=("adam", "adamw", "muon"))
    beta2: float = setting(0.999, "decay of the squared-gradient average", low=0.0, high=0.999999)
    weight_decay: float = setting(0.0, "decoupled weight decay (adamw, muon)", low=0.0)
    clip_norm: float = setting(1.0, "gradient norm is clipped to this; 0 = not clipped", low=0.0)
    ema_decay: float = setting(
        0.9999, "decay of the weight average, min(this, (1+step)/(10+step))", low=0.0, high=1.0
    )
    seed: int = setting(0, "seed of initialisation, data order and noise", low=0)
    precision: str = setting(
        "auto", "auto = bf16 on a GPU that has it", choices=("auto", "fp32", "bf16")
    )
    log_every: int = setting(50, "steps between records in log.jsonl", low=1, fixed=False)
    tracker: str = setting(
        "none",
        "where the records of log.jsonl go too",
        choices=("none", "tensorboard", "wandb"),
        fixed=False,
    )
    save_every: int = setting(1000, "steps between states", low=1, fixed=False)
    sample_every: int = setting(5000, "steps between samples; 0 = none", low=0, fixed=False)
    validate_every: int = setting(1000, "steps between validations; 0 = none", low=0, fixed=False)
    validation_examples: int = setting(
        256, "held-out examples a validation uses", low=1, fixed=False
    )
    keep_last: int = setting(2, "newest states kept", low=1, fixed=False)
    keep_best: int = setting(1, "states of lowest validation loss kept", low=0, fixed=False)


@dataclass
class PairTrainConfig(TrainConfig):
    """How to train on pairs of texts. Raises UsageError."""

    batch_tokens: int = setting(
        0,
        "tokens per micro-batch, padding included, in place of batch_size; pairs of about one "
        "length go together. 0 = batch_size pairs",
        low=0,
    )
    average_best: int = setting(
        0,
        "states of best validation BLEU whose mean is decoded with; 0 = the average over all steps",
        low=0,
        fixed=False,
    )

    def __post_init__(self) -> None:
        if self.average_best and (not self.validate_every or self.validate_every % self.save_every):
            raise UsageError(
                f"train.average_best needs a state at each validation: train.validate_every "
                f"{self.validate_every} is no multiple of train.save_every {self.save_every}"
            )


@dataclass
class TokensLossConfig:
    """The objective of models that are trained to say tokens."""

    smoothing: float = setting(
        0.1, "label smoothing: share of a target spread over all tokens", low=0.0, high=0.9
    )
