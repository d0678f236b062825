"""The adversarial term of VQGAN (Esser, Rombach & Ommer 2021, https://arxiv.org/abs/2012.09841,
section 3.1), for photographs: a discriminator looks at patches of pictures x and of reconstructions
x_hat, both [B, C, H, W], and tells them apart; the decoder learns to be taken for real.

In their code, taming-transformers, it comes with the hinge loss (Lim & Ye 2017) and begins late,
when reconstructions are no longer blurs that anything could tell.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST = 1e4  # of the adaptive weight
DELTA = 1e-4  # of Eq. 7; the paper has 1e-6


class Discriminator(nn.Sequential):
    """PatchGAN (Isola et al. 2017): x [B, C, H, W] to logits [B, h, w], above 0 for real patches.

    `layers` convolutions halve the resolution, and each after the first doubles the channels, to 8
    times as many at the most. Statistics of BatchNorm are always those of the batch.
    """

    def __init__(self, image_channels: int, channels: int, layers: int) -> None:
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(image_channels, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            parts += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride, 1, bias=False),
                nn.BatchNorm2d(widths[i], track_running_stats=False),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*parts, nn.Conv2d(widths[-1], 1, 4, 1, 1), nn.Flatten(1, 2))
        for part in self:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0.0, 0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1.0, 0.02)


def adversarial_terms(
    discriminator: nn.Module,
    x: Tensor,
    x_hat: Tensor,
    reconstruction: Tensor,
    last_layer: Tensor,
    weight: float,
) -> dict[str, Tensor]:
    """The two sides of Eq. 6 as terms of one loss, [B] each: each trains its own side alone, so
    their sum can be minimised in one step.

    reconstruction [B]: the loss that the generator's term is balanced with, by its gradient at
    `last_layer`, the decoder's last weights; weight: of the generator's term beside that.
    """
    frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
    fooled = torch.func.functional_call(discriminator, frozen, (x_hat,))
    generator = -fooled.flatten(1).mean(dim=1)
    lam = adaptive_weight(reconstruction.mean(), generator.mean(), last_layer)
    told = hinge_loss(discriminator(x), discriminator(x_hat.detach()))
    return {"generator": weight * lam * generator, "discriminator": told}


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises: logits of patches, [B, ...] both -> [B]; 1 for one that
    knows nothing."""
    return (F.relu(1 - real) + F.relu(1 + fake)).flatten(1).mean(dim=1) / 2


def adaptive_weight(reconstruction: Tensor, generator: Tensor, last_layer: Tensor) -> Tensor:
    """lambda (Eq. 7): how many times larger the gradient of one loss at the last layer is than that
    of the other. Scalars, with a graph to `last_layer` that is kept; no gradient goes through."""

    def norm(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()

    return (norm(reconstruction) / (norm(generator) + DELTA)).clamp(max=MOST).detach()
