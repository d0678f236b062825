"""The U-Net of Ho et al. 2020 (appendix B): noisy image and noise level in, noise out.

Every resolution level is a row of residual blocks, with self-attention at the resolutions asked
for; each block is told the noise level, and the class where there are classes, through an embedding
that acts between its two convolutions. Of a caption that embedding holds a summary, and where
positions attend to each other they then attend to its tokens (Saharia et al. 2022).
"""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.backends.ddpm import ModelConfig
from gentool.nn.attention import attend
from gentool.nn.norm import GroupNorm
from gentool.nn.text import Encoded, TextEncoder
from gentool.nn.time import timestep_features

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class UNet(nn.Module):
    """eps_hat = UNet(x_t, t, y, text); x_t [B, C, H, W], eps_hat [B, out_channels, H, W].

    t [B] in 0..T-1; y [B] in 0..classes, where `classes` itself is none of them, and so is no y;
    text: captions, encoded or as the text encoder takes them, for a network that was given one.
    """

    def __init__(
        self,
        config: ModelConfig,
        image_channels: int,
        image_size: int,
        out_channels: int | None = None,  # none: image_channels
        text: TextEncoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.n_features = config.time_channels or config.channels
        D = 4 * self.n_features
        widths = [config.channels * m for m in config.multipliers]
        resolution = image_size // config.patch_size
        positions = config.patch_size**2  # pixels in a patch
        text_width = config.text.width if text else 0

        def block(c_in: int, c_out: int, resolution: int) -> nn.Module:
            attends = resolution in config.attention
            return Block(c_in, c_out, D, config, attends, text_width=text_width)

        self.time = nn.Sequential(nn.Linear(self.n_features, D), nn.SiLU(), nn.Linear(D, D))
        if config.classes:
            self.classes = nn.Embedding(config.classes + 1, D)
            nn.init.zeros_(self.classes.weight[-1:])  # no class: what the noise level says alone
        if text:
            self.text, self.pooled = text, nn.Linear(text_width, D)
        self.stem = nn.Conv2d(image_channels * positions, widths[0], 3, padding=1)
        if config.positions:
            # Else a position knows where it is by the padding of the convolutions alone.
            self.positions = nn.Embedding(resolution**2, widths[0])
            nn.init.zeros_(self.positions.weight)

        # Down: every output is kept for the way up, last in first out.
        self.down = nn.ModuleList()
        c, skips = widths[0], [widths[0]]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(block(c, width, resolution))
                c = width
                skips.append(c)
            if level < len(widths) - 1:
                self.down.append(Downsample(c, config))
                resolution //= 2
                skips.append(c)

        self.middle = nn.ModuleList(
            [
                Block(
                    c, c, D, config, attends=True, normed=config.middle_norm, text_width=text_width
                ),
                Block(c, c, D, config, attends=False),
            ]
        )

        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(block(c + skips.pop(), width, resolution))
                c = width
            if level > 0:
                self.up.append(Upsample(c))
                resolution *= 2

        self.norm = group_norm(c, config)
        self.head = zero(nn.Conv2d(c, (out_channels or image_channels) * positions, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.any():
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        # Convolutions are faster so, on CPU and GPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        text: Encoded | tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        config = self.config
        told: Encoded | None = None
        if text is not None:
            told = text if isinstance(text, Encoded) else self.text(*text)
        emb = self.time(
            timestep_features(t, self.n_features, config.time_features, config.frequency_shift)
        )
        if config.classes:
            emb = emb + self.classes(torch.full_like(t, config.classes) if y is None else y)
        if told is not None:
            emb = emb + self.pooled(told.pooled)
        emb = F.silu(emb)  # [B, D]
        # A patch of p × p pixels becomes one position with p² times the channels.
        h = F.pixel_unshuffle(x_t, config.patch_size).to(memory_format=torch.channels_last)
        h = self.stem(h)
        if config.positions:
            h = h + self.positions.weight.T.unflatten(1, h.shape[2:])  # [C, h, w]
        skips = [h]
        for layer in self.down:
            h = layer(h, emb, told)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, emb, told)
        for layer in self.up:
            h = torch.cat([h, skips.pop()], dim=1) if isinstance(layer, Block) else h
            h = layer(h, emb, told)
        h = self.head(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, config.patch_size).contiguous()


class Block(nn.Module):
    """Two convolutions around the noise level's embedding, a residual path, then attention."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        D: int,
        config: ModelConfig,
        attends: bool,
        normed: bool = True,
        text_width: int = 0,  # none: no captions
    ) -> None:
        super().__init__()
        self.scales = config.time_embedding == "scale_shift"
        self.norm_1 = group_norm(c_in, config)
        self.conv_1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.emb = nn.Linear(D, 2 * c_out if self.scales else c_out)
        self.norm_2 = group_norm(c_out, config)
        self.dropout = nn.Dropout(config.dropout)
        self.conv_2 = zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = Attention(c_out, config, normed) if attends else nn.Identity()
        self.reads = attends and text_width > 0
        if self.reads:
            self.reading = CrossAttention(c_out, text_width, config)

    def forward(  # [B, c_in, h, w], [B, D]
        self, x: Tensor, emb: Tensor, text: Encoded | None = None
    ) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        emb = self.emb(emb)[:, :, None, None]
        if self.scales:
            scale, shift = emb.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        else:
            h = self.norm_2(h + emb)
        h = self.conv_2(self.dropout(F.silu(h)))
        h = self.attention(self.skip(x) + h)  # [B, c_out, h, w]
        return self.reading(h, text) if self.reads and text is not None else h


class Attention(nn.Module):
    """Self-attention over positions, with a residual path."""

    def __init__(self, c: int, config: ModelConfig, normed: bool = True) -> None:
        super().__init__()
        self.heads = c // config.head_channels if config.head_channels else 1
        self.norm = group_norm(c, config) if normed else nn.Identity()
        self.qkv = nn.Linear(c, 3 * c)
        self.out = zero(nn.Linear(c, c))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, h, w]
        B, C, height, width = x.shape
        h = self.norm(x).flatten(2).transpose(1, 2)  # [B, L, C], L = h·w
        qkv = self.qkv(h).unflatten(-1, (3, self.heads, C // self.heads))  # [B, L, 3, N, C/N]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, N, L, C/N]
        h = attend(q, k, v)
        h = self.out(h.transpose(1, 2).flatten(2))  # [B, L, C]
        return x + h.transpose(1, 2).unflatten(2, (height, width))


class CrossAttention(nn.Module):
    """Attention of positions to the tokens of a caption, with a residual path."""

    def __init__(self, c: int, text_width: int, config: ModelConfig) -> None:
        super().__init__()
        self.heads = c // config.head_channels if config.head_channels else 1
        self.norm = group_norm(c, config)
        self.q = nn.Linear(c, c)
        self.kv = nn.Linear(text_width, 2 * c)
        self.out = zero(nn.Linear(c, c))

    def forward(self, x: Tensor, text: Encoded) -> Tensor:
        C, height, width = x.shape[1:]
        heads = (self.heads, C // self.heads)
        q = self.q(self.norm(x).flatten(2).transpose(1, 2)).unflatten(-1, heads).transpose(1, 2)
        k, v = self.kv(text.sequence).unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4)
        # q [B, N, h·w, C/N]; k and v [B, N, L, C/N]; the mask broadcasts over heads and positions
        h = attend(q, k, v, text.mask[:, None, None])
        h = self.out(h.transpose(1, 2).flatten(2))  # [B, h·w, C]
        return x + h.transpose(1, 2).unflatten(2, (height, width))


class Downsample(nn.Module):
    """Half the resolution: 3 × 3 convolution with stride 2, padded right and below as in Ho's."""

    def __init__(self, c: int, config: ModelConfig) -> None:
        super().__init__()
        self.around = config.down_padding == "around"
        self.conv = nn.Conv2d(c, c, 3, stride=2, padding=1 if self.around else 0)

    def forward(self, x: Tensor, emb: Tensor, text: Encoded | None = None) -> Tensor:
        return self.conv(x if self.around else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbour, then a 3 × 3 convolution."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor, text: Encoded | None = None) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def group_norm(c: int, config: ModelConfig) -> GroupNorm:
    """Normalisation over groups of the c channels."""
    return GroupNorm(config.norm_groups, c, eps=config.norm_eps)


def zero(module: Layer) -> Layer:
    """The module with zero weights, so that a residual branch begins as the identity."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module
