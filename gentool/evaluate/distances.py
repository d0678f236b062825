"""FID and KID: how far apart two sets of pictures are, by the features of an extractor.

The arithmetic is that of torchmetrics, on features that are computed here.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gentool.checkpoint.atomic import write_file
from gentool.checkpoint.weights import load_tensors, save_tensors
from gentool.errors import GentoolError, UsageError
from gentool.evaluate.extractors import Extractor
from gentool.extras import extra
from gentool.rng import torch_seed

LEAST = 50  # samples that KID takes
SUBSETS, SUBSET = 100, 1000  # of KID: how many, and pictures in each, at most half of all
MANY = 10_000  # samples from which on FID is the usual figure; below its bias is larger than it


@dataclass
class Distance:
    """A figure and, of KID, its standard deviation over subsets."""

    value: float
    deviation: float | None = None


class _Given(nn.Module):
    """For torchmetrics: the features are there already."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.num_features = n

    def forward(self, x: Tensor) -> Tensor:
        return x


def fid(real: Tensor, fake: Tensor) -> Distance:
    """Heusel et al. 2017: the Frechet distance of two Gaussians. real and fake: [N, D] features.

    Raises UsageError where there are too few pictures for a covariance of D features.
    """
    image = _library()
    least = real.shape[1] + 1
    check_enough("fid", min(len(real), len(fake)), least)
    metric = image.fid.FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return Distance(float(metric.compute()))


def kid(real: Tensor, fake: Tensor, seed: int) -> Distance:
    """Bińkowski et al. 2018: the squared MMD of a cubic kernel, unbiased, over random subsets.

    real and fake: [N, D] features. Raises UsageError for fewer than LEAST pictures.
    """
    image = _library()
    n = min(len(real), len(fake))
    check_enough("kid", n, LEAST)
    with warnings.catch_warnings():  # of features kept in memory, which they are already
        warnings.simplefilter("ignore")
        metric = image.kid.KernelInceptionDistance(
            feature=_Given(real.shape[1]), subsets=SUBSETS, subset_size=min(SUBSET, n // 2)
        )
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    with torch_seed("kid", seed):  # torchmetrics draws its subsets from torch's generator
        mean, deviation = metric.compute()
    return Distance(float(mean), float(deviation))


def usual_distance(n: int) -> str:
    """The metric that n samples are enough for."""
    return "fid" if n >= MANY else "kid"


def check_enough(metric: str, n: int, least: int) -> None:
    """Raise UsageError for fewer pictures than `metric` takes."""
    if n < least:
        other = "kid takes fewer, or " if metric == "fid" and n >= LEAST else ""
        raise UsageError(
            f"{metric} takes at least {least} pictures"
            f"{' with these features' if metric == 'fid' else ''}, there are {n}",
            f"{other}more of them, and as many pictures to compare with",
        )


def features_of(batches: Iterable[Tensor], extractor: Extractor, device: torch.device) -> Tensor:
    """[N, D] float32 on the CPU of batches of pictures, float [B, C, H, W] in [-1, 1]."""
    with torch.no_grad():
        found = [extractor.features(_colour(batch).to(device)).float().cpu() for batch in batches]
    return torch.cat(found)


def cached(facts: dict[str, Any], make: Any) -> Tensor:
    """What `make()` gives, [N, D], kept on disk under `facts`: what the data were, and by what
    their features were extracted."""
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "gentool" / "features" / f"{key}.safetensors"
    try:
        return load_tensors(path)[0]["features"]
    except (OSError, KeyError, GentoolError):
        pass
    features: Tensor = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, lambda to: save_tensors({"features": features}, to, {}))
    except OSError:
        pass  # a cache that cannot be kept costs time, nothing else
    return features


def _colour(batch: Tensor) -> Tensor:
    return batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch


def _library() -> Any:
    for metric in ("fid", "kid"):
        extra(f"torchmetrics.image.{metric}", "fid and kid")
    return extra("torchmetrics.image", "fid and kid")
