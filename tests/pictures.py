"""What tests of models of picture tokens share: tiny recipes of both stages, draws, pictures."""

from pathlib import Path

import numpy as np
import torch
from conftest import CLASSES
from PIL import Image

from gentool.backends.mvtm import SampleConfig
from gentool.checkpoint.load import Loaded
from gentool.rng import BatchRng

VQ = """\
backend = "vq"
[model]
patch_size = 2
channels = 8
multipliers = [1]
blocks = 1
middle = 0
norm_groups = 4
codes = 16
dimensions = 4
[quantizer]
entropy = 0.0
revive_every = 5
[train]
batch_size = 8
steps = 40
optimizer = "muon"
learning_rate = 0.01
ema_decay = 0.9
log_every = 10
save_every = 10
validate_every = 0
sample_every = 0
"""
MVTM = """\
backend = "mvtm"
[data]
spec = ["{folder}"]
image_size = 8
[tokenizer]
recipe = "{first}"
[model]
hidden = 32
layers = 1
heads = 2
feed_forward = 64
norm_eps = 1e-6
dropout = 0.0
classes = 3
[masking]
drop_condition = 0.1
label_smoothing = 0.0
[train]
batch_size = 8
steps = 60
optimizer = "muon"
learning_rate = 0.03
weight_decay = 0.0
warmup_steps = 0
ema_decay = 0.9
log_every = 10
save_every = 20
validate_every = 30
validation_examples = 8
sample_every = 60
[sample]
steps = 4
"""


def draw(loaded: Loaded, n: int = 4, first: int = 0, sample: SampleConfig | None = None, **given):
    rng = BatchRng.for_samples(0, range(first, first + n))
    return loaded.backend.draw(loaded.network, rng, sample or SampleConfig(steps=4), **given)


def classes(*names: str) -> torch.Tensor:
    return torch.tensor([CLASSES.index(name) for name in names])


def picture(path: Path, size: int = 8) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (size, size, 3)).astype(np.uint8)).save(path)
    return path
