"""The transformer of Mask-Predict: an encoder that also predicts the target's length, and a decoder
whose every position sees every other.

Post-norm, GELU, learned positions, all embeddings tied and not scaled, as in the authors' code. The
source is read with a LENGTH token before it, whose output scores the lengths.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.backends.mask_predict import ModelConfig
from gentool.nn.attention import attend

STD = 0.02  # of initial weights, as in BERT

KeysValues = tuple[Tensor, Tensor]  # [B, heads, S, D / heads] each


@dataclass
class Memory:
    """What the decoder sees of a batch of sources; made once for all passes and candidates."""

    keys_values: list[KeysValues]  # of each layer
    bias: Tensor  # [B, 1, 1, S], -inf at padding
    length_logits: Tensor  # [B, L_max + 1], -inf for 0

    def of(self, sources: Tensor) -> "Memory":
        """Of some of the sources, by their numbers."""
        if torch.equal(sources, torch.arange(len(self.bias), device=sources.device)):
            return self
        keys_values = [(k[sources], v[sources]) for k, v in self.keys_values]
        return Memory(keys_values, self.bias[sources], self.length_logits[sources])


class MaskPredictTransformer(nn.Module):
    """`encode` sources once, then `decode` targets as often as is needed; `forward` is both.

    tgt_size: tokens of the target vocabulary; src_size: of the sources' own one, 0 if it is the
    same. length: tokens of a source or target at the most.
    """

    def __init__(
        self, config: ModelConfig, tgt_size: int, src_size: int, length: int, pads: tuple[int, int]
    ) -> None:
        """pads: the ids of padding in sources and targets."""
        super().__init__()
        D = config.hidden
        self.src_pad, self.tgt_pad = pads
        self.embedding = nn.Embedding(tgt_size, D)
        self.src_embedding = nn.Embedding(src_size, D) if src_size else None
        self.src_positions = nn.Embedding(length, D)
        self.tgt_positions = nn.Embedding(length, D)
        self.lengths = nn.Embedding(length + 1, D)  # row 0 is the LENGTH token
        self.encoder = nn.ModuleList(Layer(config, False) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(Layer(config, True) for _ in range(config.decoder_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.apply(_initialise)

    def forward(self, src_ids: Tensor, ids: Tensor, is_masked: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the masked tokens [n_masked, V] and of the lengths [B, L_max + 1].

        src_ids [B, S]; ids [B, L], masked where is_masked [B, L].
        """
        memory = self.encode(src_ids)
        return self.decode(ids, is_masked, memory), memory.length_logits

    def encode(self, src_ids: Tensor) -> Memory:
        """Of sources [B, S]."""
        bias = padding_bias(src_ids == self.src_pad)
        table = self.embedding if self.src_embedding is None else self.src_embedding
        x = table(src_ids) + self.src_positions.weight[: src_ids.shape[1]]
        # The LENGTH token goes before, without a position, and is gone afterwards.
        x = torch.cat([self.lengths.weight[0].expand(len(x), 1, -1), x], dim=1)
        x = self.dropout(x)
        bias_x = F.pad(bias, (1, 0))
        for layer in self.encoder:
            x = layer(x, bias_x)  # [B, 1 + S, D]
        with torch.autocast(x.device.type, enabled=False):  # in bf16 neighbouring lengths would tie
            length_logits = F.linear(x[:, 0].to(self.lengths.weight), self.lengths.weight)
        length_logits = F.pad(length_logits[:, 1:], (1, 0), value=-torch.inf)
        decoder = cast(Iterable[Layer], self.decoder)
        keys_values = [layer.cross.keys_values(x[:, 1:]) for layer in decoder]
        return Memory(keys_values, bias, length_logits)

    def decode(self, ids: Tensor, is_masked: Tensor, memory: Memory) -> Tensor:
        """Logits of the masked positions alone, [n_masked, V], row by row.

        ids [R, L]: as many rows for each source, one source after the other.
        """
        bias = padding_bias(ids == self.tgt_pad)
        x = self.embedding(ids) + self.tgt_positions.weight[: ids.shape[1]]
        x = self.dropout(x)
        # Of the last layer only what is masked is wanted: the first `most` places of each row.
        most = int(is_masked.sum(dim=1).max())
        places = is_masked.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        last = len(self.decoder) - 1
        for n, keys_values in enumerate(memory.keys_values):
            wanted = places if n == last else None
            x = self.decoder[n](x, bias, (keys_values, memory.bias), wanted)  # [R, L or most, D]
        return F.linear(x[is_masked.gather(1, places)], self.embedding.weight)


class Layer(nn.Module):
    """Attention among all positions, in the decoder then to the source, then a feed-forward layer;
    each added and normalised."""

    def __init__(self, config: ModelConfig, reads_source: bool) -> None:
        super().__init__()
        D, inner = config.hidden, config.feedforward
        self.attention, self.attention_norm = Attention(config), nn.LayerNorm(D)
        if reads_source:
            self.cross, self.cross_norm = Attention(config), nn.LayerNorm(D)
        self.feedforward = nn.Sequential(nn.Linear(D, inner), nn.GELU(), nn.Linear(inner, D))
        self.feedforward_norm = nn.LayerNorm(D)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        source: tuple[KeysValues, Tensor] | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """x [R, L, D] and its bias [R, 1, 1, L]; the source's keys, values and bias [B, ...];
        places [R, K]: of x's, at which outputs are wanted, [R, K, D]."""
        keys_values = self.attention.keys_values(x)
        if places is not None:
            x = x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
        attended = self.attention(x, keys_values, bias)
        x = self.attention_norm(x + self.dropout(attended))
        if source:
            # The rows of one source ask its keys together: no row needs a copy of them.
            together = x.view(len(source[1]), -1, x.shape[2])
            attended = self.cross(together, *source).view_as(x)
            x = self.cross_norm(x + self.dropout(attended))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


class Attention(nn.Module):
    """Multi-head attention of which keys and values can be made beforehand."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.hidden
        self.heads = config.heads
        self.query, self.key, self.value, self.out = (nn.Linear(D, D) for _ in range(4))

    def keys_values(self, x: Tensor) -> KeysValues:
        """Of x [B, S, D]."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, keys_values: KeysValues, bias: Tensor) -> Tensor:
        """x [B, L, D], bias [B, 1, 1, S]."""
        q = self._split(self.query(x))
        out = attend(q, *keys_values, bias.to(q.dtype))
        return self.out(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """[B, S, D] as [B, heads, S, D / heads]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def padding_bias(is_padding: Tensor) -> Tensor:
    """What is added to attention scores, [B, 1, 1, S]: -inf at padding. is_padding bool [B, S]."""
    zeros = torch.zeros(is_padding.shape, device=is_padding.device)
    return zeros.masked_fill(is_padding, -torch.inf)[:, None, None]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
