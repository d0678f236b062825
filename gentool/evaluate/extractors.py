"""Networks whose inner features FID and KID compare pictures by."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gentool.checkpoint.config import is_checkpoint, run_of
from gentool.checkpoint.weights import tensors_hash
from gentool.errors import BadDataError, UsageError
from gentool.tokenizers.huggingface import translated

INCEPTION = "inception"


@dataclass
class Extractor:
    """A network, frozen."""

    name: str  # part of the metric's: kid[NAME]
    identity: str  # which weights
    size: int  # pictures are resized to this many pixels a side
    features: Callable[[Tensor], Tensor]  # float [B, 3, H, W] in [-1, 1] -> [B, D]


def load_extractor(name: str | None, device: torch.device) -> Extractor:
    """The extractor `name`: `inception`, the folder of `gentool train features`, or a vision model
    of transformers by name or folder. Raises UsageError, NotFoundError, MachineError (no network),
    BadDataError (no model of pictures) or BadCheckpointError."""
    if name is None:
        raise UsageError(
            "fid and kid need features to compare pictures by",
            "--features RUN of `gentool train features`, a transformers model, or inception",
        )
    if name == INCEPTION:
        return _inception(device)
    folder = Path(name)
    if is_checkpoint(folder):
        return _fitted(folder, device)
    return _transformers(name, device)


def resized(x: Tensor, size: int) -> Tensor:
    """x [B, C, H, W] with `size` pixels a side: bilinear with antialiasing, none where it fits."""
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def _fitted(folder: Path, device: torch.device) -> Extractor:
    from gentool.checkpoint.load import load_checkpoint

    loaded = load_checkpoint(folder, "features")
    network: Any = loaded.network.to(device)
    data = loaded.config.data

    def features(x: Tensor) -> Tensor:
        x = resized(x, data.image_size)
        return network.features(x if data.channels == 3 else x.mean(dim=1, keepdim=True))

    identity = tensors_hash(loaded.network.state_dict())
    return Extractor(run_of(folder.resolve()).name, identity, data.image_size, features)


def _inception(device: torch.device) -> Extractor:
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        network = NoTrainInceptionV3("inception-v3-compat", ["2048"]).to(device)
    except (ImportError, OSError) as error:
        raise UsageError(
            f"Inception cannot be had: {error}",
            "pip install torch-fidelity, which downloads its weights; or --features RUN",
        ) from None

    def features(x: Tensor) -> Tensor:
        return network(((x + 1) * 127.5).round().clamp(0, 255).byte())

    return Extractor(INCEPTION, INCEPTION, 299, features)


def _transformers(name: str, device: torch.device) -> Extractor:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        model = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # of transformers, huggingface_hub, safetensors and the network
        raise translated(error, name, "vision model") from None
    vision = getattr(model, "vision_model", model).to(device).eval()
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    if not isinstance(size, int):
        raise BadDataError(f"{name} does not say the size of its pictures: is it a vision model?")
    mean, std = (
        torch.tensor(values, device=device)[:, None, None]
        for values in (processor.image_mean, processor.image_std)
    )

    def features(x: Tensor) -> Tensor:
        out = vision(pixel_values=((resized(x, size) + 1) / 2 - mean) / std)
        pooled = getattr(out, "pooler_output", None)
        return (out.last_hidden_state.mean(dim=1) if pooled is None else pooled).flatten(1)

    return Extractor(Path(name).name, tensors_hash(model.state_dict()), size, features)
