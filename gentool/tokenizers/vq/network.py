"""The tokenizer's network: convolutional encoder, codebook, convolutional decoder (MaskGIT's).

Residual blocks with GroupNorm and swish and no attention; each level halves the resolution by
averaging, and doubles it by nearest neighbour and a convolution. A local encoder is the same with
1 × 1 convolutions and a norm of each position by itself.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.nn.norm import GroupNorm
from gentool.tokenizers.vq import AdversarialConfig, ModelConfig, QuantizerConfig
from gentool.tokenizers.vq.adversarial import Discriminator
from gentool.tokenizers.vq.algorithm import (
    distances,
    of_first_process,
    processes,
    revive,
    spread,
    straight_through,
    update_codebook,
)


class Quantized(NamedTuple):
    """What `VQ` returns."""

    x_hat: Tensor  # [B, C, H, W] the reconstruction
    z: Tensor  # [B, N, D] the encoder's outputs
    e_id: Tensor  # [B, N, D] the codes they chose
    d: Tensor  # [B, N, K] squared distances to all codes; before there are any, 0
    ids: Tensor  # [B, N]


class VQ(nn.Module):
    """x_hat of x: [B, C, H, W] in [-1, 1], by way of N = (H / factor)² tokens.

    The codebook is a buffer: training moves it in `forward`, and evaluation leaves it as it is.
    """

    e: Tensor
    n: Tensor
    m: Tensor
    idle: Tensor
    seen: Tensor

    def __init__(
        self,
        model: ModelConfig,
        image_channels: int,
        quantizer: QuantizerConfig | None = None,
        adversarial: AdversarialConfig | None = None,
        start: int = 0,
        per_step: int = 1,
    ) -> None:
        """quantizer, adversarial, start, per_step: needed for training alone. start: steps before
        there are codes, after which the encoder rests. per_step: examples of a step, which comes in
        several batches where gradients are accumulated or shared: so what is counted are
        examples."""
        super().__init__()
        self.config, self.quantizer, self.start, self.per_step = model, quantizer, start, per_step
        self.encoder = Encoder(model, image_channels)
        self.decoder = Decoder(model, image_channels)
        K, D = model.codes, model.dimensions
        self.register_buffer("e", torch.zeros(K, D))
        self.register_buffer("n", torch.zeros(K))  # average number of z that chose a code
        self.register_buffer("m", torch.zeros(K, D))  # average of their sum
        self.register_buffer("idle", torch.zeros(K, dtype=torch.int64))  # examples since chosen
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # examples
        if adversarial and adversarial.weight:
            # The last to be made: what is above begins as it does without one.
            shape = (image_channels, adversarial.channels, adversarial.layers)
            self.discriminator = Discriminator(*shape)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> ids [B, N], row by row."""
        return distances(self.features(x), self.e).argmin(dim=-1)

    def decode(self, ids: Tensor) -> Tensor:
        """ids [B, N] -> x_hat [B, C, H, W], not clipped."""
        return self.pixels(F.embedding(ids, self.e))

    def features(self, x: Tensor) -> Tensor:
        """z [B, N, D] of x [B, C, H, W]."""
        h = F.pixel_unshuffle(x, self.config.patch_size).to(memory_format=torch.channels_last)
        return self.encoder(h).flatten(2).transpose(1, 2)

    def pixels(self, z_q: Tensor) -> Tensor:
        """x_hat [B, C, H, W] of z_q [B, N, D]."""
        side = round(z_q.shape[1] ** 0.5)
        h = z_q.transpose(1, 2).unflatten(2, (side, side)).to(memory_format=torch.channels_last)
        return F.pixel_shuffle(self.decoder(h), self.config.patch_size).contiguous()

    @property
    def last_layer(self) -> Tensor:
        """The decoder's last weights."""
        return self.decoder.get_parameter(f"{len(self.decoder) - 1}.weight")

    def forward(self, x: Tensor) -> Quantized:
        z = self.features(x)
        examples = len(x) * processes()
        if self.start:
            if self.seen < self.start * self.per_step and not self.n.any():
                self.seen += examples * self.training
                none = z.new_zeros(z.shape[:2])
                return Quantized(self.pixels(z), z, z, none[..., None], none.long())
            z = z.detach() + 0 * z  # all processes wait for a gradient of every parameter
        if self.training and not self.n.any():
            self._begin(z.detach().flatten(0, 1))
        e = self.e.clone() if self.training else self.e  # what gradients see does not change later
        d = distances(z, e)
        ids = d.detach().argmin(dim=-1)
        e_id = F.embedding(ids, e)
        x_hat = self.pixels(straight_through(z, e_id))
        if self.training:
            self._learn(z.detach().flatten(0, 1), ids.flatten(), d.detach().flatten(0, 1), examples)
        return Quantized(x_hat, z, e_id, d, ids)

    @torch.no_grad()
    def _begin(self, z: Tensor) -> None:
        """The codebook begins as clusters of the first batch z [M, D]."""
        K = len(self.e)
        self.e.copy_(spread(z, K))
        counts = of_first_process(torch.bincount(distances(z, self.e).argmin(dim=-1), minlength=K))
        # Codes that no z chose have no weight: they wait for a place.
        self.n.copy_((counts > 0) * processes() * len(z) / K)
        self.m.copy_(self.e * self.n[:, None])

    @torch.no_grad()
    def _learn(self, z: Tensor, ids: Tensor, d: Tensor, examples: int) -> None:
        """Move the codes towards the z [M, D], of so many examples, that chose them; put those
        elsewhere that none chose. d [M, K]"""
        assert self.quantizer
        counts = update_codebook(self.e, self.n, self.m, z, ids, self.quantizer.decay)
        self.seen += examples
        self.idle += examples
        self.idle[counts > 0] = 0
        every = self.quantizer.revive_every * self.per_step
        if int(self.seen) % every == 0:
            dead = self.idle >= every
            self.n[dead] = 0
            self.m[dead] = 0
        if not self.n.all():
            own = d.gather(1, ids[:, None])[:, 0]
            revive(self.e, self.n, self.m, z, self.n == 0, own)


class Encoder(nn.Sequential):
    """[B, C, H, W] -> [B, D, h, w]."""

    def __init__(self, config: ModelConfig, image_channels: int) -> None:
        widths, local = [config.channels * m for m in config.multipliers], config.local
        layers: list[nn.Module] = [
            convolution(image_channels * config.patch_size**2, widths[0], local)
        ]
        c = widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                layers.append(Block(c, width, config, local))
                c = width
            if level < len(widths) - 1:
                layers.append(nn.AvgPool2d(2))
        layers += [Block(c, c, config, local) for _ in range(config.middle)]
        layers += [*head(c, config, local), nn.Conv2d(c, config.dimensions, 1)]
        super().__init__(*layers)


class Decoder(nn.Sequential):
    """[B, D, h, w] -> [B, C, H, W]."""

    def __init__(self, config: ModelConfig, image_channels: int) -> None:
        widths = [config.channels * m for m in config.multipliers]
        c = widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(config.dimensions, c, 3, padding=1)]
        layers += [Block(c, c, config) for _ in range(config.middle)]
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks):
                layers.append(Block(c, width, config))
                c = width
            if level > 0:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(c, c, 3, padding=1)]
        layers.append(nn.Sequential(*head(c, config)))
        layers.append(nn.Conv2d(c, image_channels * config.patch_size**2, 3, padding=1))
        super().__init__(*layers)


class Block(nn.Module):
    """Two convolutions and a residual path."""

    def __init__(self, c_in: int, c_out: int, config: ModelConfig, local: bool = False) -> None:
        super().__init__()
        self.norm_1 = norm(c_in, config, local)
        self.conv_1 = convolution(c_in, c_out, local, bias=False)
        self.norm_2 = norm(c_out, config, local)
        self.conv_2 = convolution(c_out, c_out, local, bias=False)
        self.skip = nn.Conv2d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # [B, c_in, h, w] -> [B, c_out, h, w]
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = self.conv_2(F.silu(self.norm_2(h)))
        return self.skip(x) + h


class PositionNorm(GroupNorm):
    """GroupNorm of each position by itself, [B, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        B, _, h, w = x.shape
        x = super().forward(x.permute(0, 2, 3, 1).flatten(0, 2))
        return x.unflatten(0, (B, h, w)).permute(0, 3, 1, 2)


def convolution(c_in: int, c_out: int, local: bool, bias: bool = True) -> nn.Conv2d:
    """3 × 3, or 1 × 1 where positions are not to mix."""
    return nn.Conv2d(c_in, c_out, *((1, 1, 0) if local else (3, 1, 1)), bias=bias)


def norm(c: int, config: ModelConfig, local: bool) -> GroupNorm:
    """Over all positions, or of each."""
    return (PositionNorm if local else GroupNorm)(config.norm_groups, c, eps=1e-6)


def head(c: int, config: ModelConfig, local: bool = False) -> list[nn.Module]:
    """What stands before the last convolution."""
    return [norm(c, config, local), nn.SiLU()]
