"""The transformer of Diffusion-LM: noisy embeddings and noise level in, clean embeddings out.

BERT's encoder (post-norm, GELU, learned positions), trained from scratch, between two small
projections; the noise level is added to every position.
"""

import torch
from torch import Tensor, nn

from gentool.backends.diffusion_lm import ModelConfig
from gentool.nn.attention import EncoderLayer
from gentool.nn.time import timestep_features


class DiffusionTransformer(nn.Module):
    """x_0_hat = DiffusionTransformer(x_t, t): [B, L, d] both; t [B] on a scale of 0..1000.

    Holds the embeddings too, emb = `embedding.weight` [V, d], and the bias of the rounding [V], so
    that the average of the weights covers them.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, length: int) -> None:
        super().__init__()
        d, H = config.embedding, config.hidden
        self.embedding = nn.Embedding(vocabulary, d)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.n_features = config.time_features
        D = 4 * self.n_features
        self.time = nn.Sequential(nn.Linear(self.n_features, D), nn.SiLU(), nn.Linear(D, H))
        self.up = nn.Sequential(nn.Linear(d, H), nn.Tanh(), nn.Linear(H, H))
        self.positions = nn.Parameter(0.02 * torch.randn(length, H))
        self.norm = nn.LayerNorm(H)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.Sequential(
            *(EncoderLayer(H, config.heads, dropout=config.dropout) for _ in range(config.layers))
        )
        self.down = nn.Sequential(nn.Linear(H, H), nn.Tanh(), nn.Linear(H, d))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        time = self.time(timestep_features(t, self.n_features, "cos_sin", 0))  # [B, H]
        h = self.up(x_t) + self.positions + time[:, None]  # [B, L, H]
        h = self.layers(self.dropout(self.norm(h)))
        return self.down(h)
