"""The classifier of attributes: noised embeddings and noise level in, a logit a value out."""

import torch
from torch import Tensor, nn

from gentool.backends.diffusion_lm.classifier import ModelConfig
from gentool.nn.attention import EncoderLayer
from gentool.nn.time import timestep_features


class ControlClassifier(nn.Module):
    """logits = ControlClassifier(x_t, t): [B, L, d] -> [B, values]; t [B] on a scale of 0..1000.

    The noise level stands before the words as a position of its own, as in the authors' code; the
    mean of what becomes of all positions is read.
    """

    def __init__(self, config: ModelConfig, embedding: int, length: int) -> None:
        super().__init__()
        H = config.hidden
        self.n_features = config.time_features
        self.time = nn.Sequential(nn.Linear(self.n_features, H), nn.SiLU(), nn.Linear(H, H))
        self.up = nn.Sequential(nn.Linear(embedding, H), nn.Tanh(), nn.Linear(H, H))
        self.positions = nn.Parameter(0.02 * torch.randn(1 + length, H))
        self.layers = nn.Sequential(
            *(
                EncoderLayer(H, config.heads, dropout=config.dropout, norm_first=True)
                for _ in range(config.layers)
            )
        )
        self.norm = nn.LayerNorm(H)
        self.head = nn.Linear(H, len(config.values))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        time = self.time(timestep_features(t, self.n_features, "cos_sin", 0))  # [B, H]
        h = torch.cat([time[:, None], self.up(x_t)], dim=1) + self.positions  # [B, 1 + L, H]
        return self.head(self.norm(self.layers(h)).mean(dim=1))
