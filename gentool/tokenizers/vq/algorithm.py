"""Vector quantisation (van den Oord et al. 2017), the terms and updates of the codebook.

z [..., D] are the encoder's outputs, e [K, D] the codebook. The codebook has no gradient: its
entries are moving averages of the z that chose them (appendix A.1), in place of the loss term
|e - sg(z)|^2. All distances are in fp32: bf16 cannot tell neighbours apart.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def distances(z: Tensor, e: Tensor) -> Tensor:
    """|z - e_k|^2 of every z to every code, [..., K]."""
    with torch.autocast(z.device.type, enabled=False):
        z, e = z.float(), e.float()
        d = torch.addmm(e.square().sum(-1), z.flatten(0, -2), e.T, alpha=-2)  # |e|^2 - 2 z·e
        return d.unflatten(0, z.shape[:-1]).add_(z.square().sum(-1, keepdim=True))


def straight_through(z: Tensor, e_id: Tensor) -> Tensor:
    """z_q = e_id in value, to the bit; its gradient is z's (Eq. 3)."""
    return e_id.detach() + (z - z.detach())


def commitment(z: Tensor, e_id: Tensor) -> Tensor:
    """|sg(e) - z|^2, the last term of Eq. 3: mean over all but the first dimension, [B]."""
    return (e_id.detach() - z).square().flatten(1).mean(dim=1)


def entropy_loss(d: Tensor, temperature: float) -> Tensor:
    """How unsure tokens are of their code, less how evenly the codes are used over the batch
    (MaskGIT's): mean of H(p) - H(mean of p), p = softmax(-d / temperature). d [B, N, K] -> [B]."""
    log_p = F.log_softmax(-d / temperature, dim=-1)
    p = log_p.exp()
    each = -(p * log_p).sum(dim=-1).mean(dim=1)  # [B]
    mean = p.mean(dim=(0, 1))
    together = -(mean * (mean + 1e-5).log()).sum()
    return each - together


def update_codebook(
    e: Tensor, n: Tensor, m: Tensor, z: Tensor, ids: Tensor, decay: float
) -> Tensor:
    """Eqs. 6-8, in place: n [K] and m [K, D] are the averages of how many z chose a code and of
    their sum; e = m / n. z [M, D], ids [M]. Returns how many chose each in this batch, [K].

    Over several processes these are the counts and sums of all of them.
    """
    counts = torch.bincount(ids, minlength=len(e)).to(n)
    sums = torch.zeros_like(m).index_add_(0, ids, z.float())
    if processes() > 1:
        dist.all_reduce(counts)
        dist.all_reduce(sums)
    n.lerp_(counts, 1 - decay)
    m.lerp_(sums, 1 - decay)
    # Laplace smoothing: a code that is hardly chosen is not divided by nearly nothing.
    K, total = len(e), n.sum()
    smooth = (n + 1e-5) / (total + K * 1e-5) * total
    e.copy_(torch.where(n[:, None] > 0, m / smooth[:, None], e))  # one without any z stays
    return counts


def spread(z: Tensor, K: int, rounds: int = 10) -> Tensor:
    """K codes to begin with, by k-means of z [M, D]: [K, D].

    Its own beginning is k-means++ (Arthur & Vassilvitskii 2007), as most patches of most pictures
    look alike. Draws are on the CPU, from torch's generator, as those of dropout.
    """
    z = z.float()
    e = z[torch.randint(len(z), (1,)).to(z.device)]
    nearest = (z - e).square().sum(-1)  # [M]
    for _ in range(K - 1):
        # Where all z have a code already, any one does.
        weights = nearest if nearest.sum() > 0 else torch.ones_like(nearest)
        chosen = z[torch.multinomial(weights.cpu(), 1).to(z.device)]
        e = torch.cat([e, chosen])
        nearest = torch.minimum(nearest, (z - chosen).square().sum(-1))
    for _ in range(rounds):
        ids = distances(z, e).argmin(dim=-1)
        counts = torch.bincount(ids, minlength=K).to(e)
        sums = torch.zeros_like(e).index_add_(0, ids, z)
        e = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], e)
    return of_first_process(e)


def revive(e: Tensor, n: Tensor, m: Tensor, z: Tensor, dead: Tensor, d: Tensor) -> None:
    """Put the codes `dead` [K] (bool) where z [M, D] is far from all codes, in place.

    d [M]: the distance of each z to its code. As in k-means++ a z is drawn with a probability that
    grows with its distance, which is none once it has a code of its own; codes for which no z is
    left stay where they are. Draws are on the CPU, from torch's generator, as those of dropout.
    """
    z, d = z.float(), d.clamp(min=0)
    exact = 1e-5 * z.square().sum(-1)  # a code is an average: of equal z too, it is not quite that
    places = dead.nonzero()[:, 0]
    chosen = torch.full_like(e[places], torch.nan)
    for i in range(len(places)):
        weights = d.where(d > exact, 0)
        if not weights.any():
            break
        chosen[i] = z[torch.multinomial(weights.cpu(), 1).to(z.device)]
        d = torch.minimum(d, (z - chosen[i]).square().sum(-1))
    chosen = of_first_process(chosen)
    found = ~chosen[:, 0].isnan()
    places, chosen = places[found], chosen[found]
    e[places] = chosen
    # As if it had been chosen as often as the usual code.
    n[places] = n.sum() / len(n)
    m[places] = chosen * n[places, None]


def processes() -> int:
    """How many there are, each with a batch of its own."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def of_first_process(x: Tensor) -> Tensor:
    """x of the first process, in all of them."""
    if processes() > 1:
        x = x.contiguous()
        dist.broadcast(x, 0)
    return x
