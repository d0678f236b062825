"""A small convolutional network that is told the time."""

import torch.nn.functional as F
from torch import Tensor, nn

from gentool.nn.time import timestep_features


class Net(nn.Module):
    """Velocity of pictures [B, C, H, W] at times t [B]."""

    def __init__(self, C: int, channels: int, patch: int) -> None:
        super().__init__()
        self.patch, inner = patch, C * patch * patch
        self.time = nn.Linear(16, channels)
        self.first = nn.Conv2d(inner, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, inner, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        told = self.time(timestep_features(1000 * t, 16))[:, :, None, None]
        h = F.silu(self.first(F.pixel_unshuffle(x, self.patch)) + told)
        h = h + F.silu(self.second(h))
        return F.pixel_shuffle(self.last(h), self.patch)
