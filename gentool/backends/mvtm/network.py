"""MaskGIT's transformer: tokens of which some are masked in, logits of the masked ones out.

BERT's encoder, bidirectional: learned positions, tanh-GELU, and an output that shares the
embeddings. What the picture is of stands before its tokens, as tokens too: a class is one of the
vocabulary, a caption comes encoded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.backends.mvtm import ModelConfig
from gentool.nn.attention import attend
from gentool.nn.text import Encoded, TextEncoder


class MaskedTransformer(nn.Module):
    """logits = MaskedTransformer(ids, is_masked, ...): ids [B, L]; is_masked [B, L] (bool) says
    where logits are wanted: [M, V], row by row.

    What the picture is of: first [B, 1], an id; or text, captions, encoded or as the text encoder
    takes them.
    """

    def __init__(
        self, config: ModelConfig, vocabulary: int, length: int, text: TextEncoder | None = None
    ) -> None:
        """vocabulary V; length L, and one more where there are classes."""
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
        self.text = text
        self.read = nn.Linear(config.text.width, d) if text else None
        theirs = {*text.modules()} if text else set()  # begins as it is made
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding) and module not in theirs:
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.positions, std=0.02, a=-0.04, b=0.04)

    def forward(
        self,
        ids: Tensor,
        is_masked: Tensor,
        first: Tensor | None = None,
        text: Encoded | tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        if first is not None:
            ids = torch.cat([first, ids], dim=1)
        h = self.embedding(ids) + self.positions[-ids.shape[1] :]  # [B, L or L + 1, d]
        attends = None
        if text is not None:
            assert self.text and self.read
            text = text if isinstance(text, Encoded) else self.text(*text)
            S = int(text.mask.sum(dim=1).max())  # of the longest: the rest is padding
            before = self.read(text.sequence[:, :S] + text.pooled[:, None])  # [B, S, d]
            seen = torch.ones_like(ids, dtype=torch.bool)
            attends = torch.cat([text.mask[:, :S], seen], dim=1)[:, None, None]  # [B, 1, 1, S + L]
            h = torch.cat([before, h], dim=1)
        h = self.dropout(self.norm(h))
        # Only the masked positions are asked for: from the last layer's attention on, h is [M, d].
        masked = F.pad(is_masked, (h.shape[1] - is_masked.shape[1], 0)).flatten().nonzero()[:, 0]
        *layers, last = self.layers
        for layer in layers:
            h = layer(h, attends)
        h = self.last(last(h, attends, masked))
        return F.linear(self.head(h), self.embedding.weight, self.bias)


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

    def forward(self, h: Tensor, attends: Tensor | None, at: Tensor | None = None) -> Tensor:
        """h [B, L, d] in and out; with `at` [M], positions in B·L, theirs alone: [M, d]."""
        a = self._attend(self.norm_1(h) if self.pre_norm else h, attends)
        if at is not None:
            h, a = (x.flatten(0, 1).index_select(0, at) for x in (h, a))
        h = h + self.dropout(self.out(a))
        if self.pre_norm:
            return h + self._feed_forward(self.norm_2(h))
        h = self.norm_1(h)
        return self.norm_2(h + self._feed_forward(h))

    def _attend(self, h: Tensor, attends: Tensor | None) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        p = self.dropout.p if self.training else 0.0
        return attend(q, k, v, attends, p).transpose(1, 2).flatten(2)  # [B, L, d]

    def _feed_forward(self, h: Tensor) -> Tensor:
        return self.dropout(self.down(F.gelu(self.up(h), approximate="tanh")))
