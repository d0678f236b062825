"""Attention of queries to keys, by the fastest way there is for it here."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The keys up to which the product is faster written out, where `_written_out` says that it may be
# (benchmarks/attention.py).
LONGEST = 512
LANES = 32  # bf16 numbers in a register: torch's softmax takes the rest of a row one by one


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q kᵀ / √D) v (Vaswani et al. 2017, eq. 1): [..., L, D].

    q [..., L, D], k and v [..., S, D]; mask is broadcast to [..., L, S]: bool, True where attended
    to, or float, added to the scores. `dropout` is the share of the weights dropped; pass 0 outside
    training.
    """
    if not _written_out(q, k.shape[-2]):
        return F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout)
    if mask is not None and mask.dtype == torch.bool:
        mask = k.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf)
    if 0 < -k.shape[-2] % LANES < LANES / 2:
        k, v, mask = _filled_up(k, v, mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # [..., L, S]
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(dim=-1).to(v.dtype)  # a mask of fp32 has made it fp32
    return F.dropout(weights, dropout) @ v


def _written_out(q: Tensor, S: int) -> bool:
    """Training in bf16 on a CPU: torch's own backward pass takes several times as long there
    as that of its parts."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad and S <= LONGEST


def _filled_up(k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values up to a multiple of LANES, and a mask to be added that hides the new ones."""
    more = -k.shape[-2] % LANES
    mask = k.new_zeros(k.shape[-2]) if mask is None else mask
    k, v = F.pad(k, (0, 0, 0, more)), F.pad(v, (0, 0, 0, more))
    return k, v, F.pad(mask, (0, more), value=-torch.inf)


class EncoderLayer(nn.TransformerEncoderLayer):
    """torch's layer of an encoder, batch first, with attention by `attend`: its own fast path for
    drawing takes another GELU on a GPU than training does."""

    def __init__(self, width: int, heads: int, **options: Any) -> None:
        super().__init__(width, heads, 4 * width, activation="gelu", batch_first=True, **options)

    def forward(self, h: Tensor, is_padding: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """h [B, L, width], is_padding bool [B, L]."""
        if self.norm_first:
            h = h + self._attention(self.norm1(h), is_padding)
            return h + self._feed_forward(self.norm2(h))
        h = self.norm1(h + self._attention(h, is_padding))
        return self.norm2(h + self._feed_forward(h))

    def _attention(self, h: Tensor, is_padding: Tensor | None) -> Tensor:
        of = self.self_attn
        qkv = F.linear(h, of.in_proj_weight, of.in_proj_bias).unflatten(-1, (3, of.num_heads, -1))
        mask = None if is_padding is None else ~is_padding[:, None, None]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, L, width / heads]
        out = attend(q, k, v, mask, of.dropout if self.training else 0.0)
        return self.dropout1(of.out_proj(out.transpose(1, 2).flatten(2)))

    def _feed_forward(self, h: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(h)))))
