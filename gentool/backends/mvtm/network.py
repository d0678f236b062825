"""MaskGIT's transformer: tokens of which some are masked in, logits of the masked ones out.

BERT's encoder, bidirectional: learned positions, tanh-GELU, and an output that shares the
embeddings. What the picture is of stands before its tokens, as tokens too: a class is one of the
vocabulary, a caption comes encoded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.backends.mvtm import ModelConfig


class MaskedTransformer(nn.Module):
    """logits = MaskedTransformer(ids, hidden): ids [B, L], of which the last N are the picture's;
    hidden [B, N] (bool) says where logits are wanted: [M, V], row by row.

    before [B, S, d]: what stands before `ids`, with present [B, S] (bool), which of it counts.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, length: int) -> None:
        """vocabulary V; length: of the longest `ids`."""
        super().__init__()
        d = config.hidden
        self.embedding = nn.Embedding(vocabulary, d)
        self.positions = nn.Parameter(torch.zeros(length, d))
        self.norm = nn.LayerNorm(d, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.last = nn.LayerNorm(d, eps=config.norm_eps) if config.pre_norm else nn.Identity()
        self.head = nn.Sequential(
            nn.Linear(d, d), nn.GELU("tanh"), nn.LayerNorm(d, eps=config.norm_eps)
        )
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.positions, std=0.02, a=-0.04, b=0.04)

    def forward(
        self,
        ids: Tensor,
        hidden: Tensor,
        before: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        h = self.embedding(ids) + self.positions[-ids.shape[1] :]  # [B, L, d]
        attends = None
        if before is not None and present is not None:
            h = torch.cat([before, h], dim=1)  # [B, S + L, d]
            if not bool(present.all()):
                attends = torch.cat([present, torch.ones_like(ids, dtype=torch.bool)], dim=1)
                attends = attends[:, None, None]  # [B, 1, 1, S + L]
        h = self.dropout(self.norm(h))
        for layer in self.layers:
            h = layer(h, attends)
        h = self.last(h)[:, -hidden.shape[1] :]
        # The widest product of all, so at the masked positions alone.
        return F.linear(self.head(h[hidden]), self.embedding.weight, self.bias)


class Layer(nn.Module):
    """Self-attention and a feed-forward net, each with a residual path: normalised after it, as
    BERT's, or before."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.hidden
        self.heads, self.pre_norm = config.heads, config.pre_norm
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, config.feed_forward), nn.Linear(config.feed_forward, d)
        self.norm_1 = nn.LayerNorm(d, eps=config.norm_eps)
        self.norm_2 = nn.LayerNorm(d, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, h: Tensor, attends: Tensor | None) -> Tensor:  # [B, L, d]
        if self.pre_norm:
            h = h + self._attention(self.norm_1(h), attends)
            return h + self._feed_forward(self.norm_2(h))
        h = self.norm_1(h + self._attention(h, attends))
        return self.norm_2(h + self._feed_forward(h))

    def _attention(self, h: Tensor, attends: Tensor | None) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        p = self.dropout.p if self.training else 0.0
        h = F.scaled_dot_product_attention(q, k, v, attends, dropout_p=p)  # [B, heads, L, d/heads]
        return self.dropout(self.out(h.transpose(1, 2).flatten(2)))

    def _feed_forward(self, h: Tensor) -> Tensor:
        return self.dropout(self.down(F.gelu(self.up(h), approximate="tanh")))
