"""The tokenizer of pictures: what `gentool train vq` made, with the interface of those of text."""

from dataclasses import asdict

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from torch import Tensor, nn

from gentool.checkpoint.weights import sampling_tensors, tensor_bytes
from gentool.data.config import ImageData
from gentool.errors import BadCheckpointError, UsageError
from gentool.settings import build
from gentool.tokenizers.folder import Contents, Stored
from gentool.tokenizers.vq import ModelConfig
from gentool.tokenizers.vq.network import VQ

STATISTICS = ("n", "m", "idle", "seen")
"""Buffers that only training needs."""


class VQTokenizer(Stored):
    """Pictures [B, C, H, W] in [-1, 1] to ids [B, N], row by row, and back."""

    def __init__(self, contents: Contents) -> None:
        """Raises BadCheckpointError if its file does not fit what is said of it."""
        super().__init__(contents)
        try:
            self.model = build(ModelConfig, dict(contents.options["model"]))
            C, side = contents.options["channels"], contents.options["image_size"]
            self.shape = (int(C), int(side), int(side))
            with torch.device("meta"):  # no weights are drawn that would not be used
                self.network = VQ(self.model, C)
            for name in STATISTICS:
                delattr(self.network, name)
            tensors = load_bytes(contents.data)
            self.network.load_state_dict(tensors, assign=True)
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise BadCheckpointError(f"its weights do not fit: {error}") from None
        except UsageError as error:
            raise BadCheckpointError(f"its options are not those of a tokenizer: {error}") from None
        if self.size != self.model.codes:
            raise BadCheckpointError(f"{self.model.codes} codes, not {self.size}")
        self.network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.network.requires_grad_(False)
        self.side = side // self.model.factor  # tokens
        self.length = self.side**2  # N

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] in [-1, 1] -> ids [B, N], where x is. In fp32 whatever surrounds it."""
        with torch.autocast(x.device.type, enabled=False):
            return self._at(x.device).encode(x.float())

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """ids [B, N] -> pictures [B, C, H, W] in [-1, 1], where ids are; in fp32."""
        with torch.autocast(ids.device.type, enabled=False):
            return self._at(ids.device).decode(ids).clamp(-1, 1)

    def _at(self, device: torch.device) -> VQ:
        if self.network.e.device != device:
            self.network.to(device)
        return self.network

    def _token(self, id: int) -> str:
        return str(id)


def tokenizer_of(network: nn.Module, model: ModelConfig, data: ImageData) -> VQTokenizer:
    """The tokenizer whose weights are those of `network`, trained with these settings."""
    tensors = {k: v for k, v in sampling_tensors(network).items() if k not in STATISTICS}
    options = {
        "model": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(model).items()},
        "channels": data.channels,
        "image_size": data.image_size,
    }
    return VQTokenizer(Contents("vq", model.codes, {}, options, tensor_bytes(tensors)))
