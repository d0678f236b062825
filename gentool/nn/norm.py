"""GroupNorm, by the fastest way there is for it here."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Positions from which torch's forward pass of bf16 is another one, and fast (benchmarks/norm.py).
MANY = 1024


class GroupNorm(nn.GroupNorm):
    """torch's layer (Wu & He 2018), [B, C, h, w] to as much in the same dtype."""

    def forward(self, x: Tensor) -> Tensor:
        if not _by_way_of_fp32(x):
            return super().forward(x)
        normed = F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps)
        return normed.to(x.dtype)


def _by_way_of_fp32(x: Tensor) -> bool:
    """bf16 in `channels_last` on a CPU, where torch's own takes several times as long as of fp32:
    its backward pass, and its forward pass of few positions."""
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or x.is_contiguous():
        return False
    return x.requires_grad or x.shape[2:].numel() < MANY
