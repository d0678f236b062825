"""MaskGIT (Chang et al. 2022): masked visual token modelling and its parallel decoding.

A picture is a row of L tokens, ids [B, L] below K; where one is masked stands mask_id. The network
is `logits_fn(ids, is_masked)`: the logits over the vocabulary of the positions where `is_masked`
[B, L] is true, row by row, [M, V]. The vocabulary may have more than the K codes (classes, the
mask); those are learned not to be drawn, and are cut off when tokens are.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

LogitsFn = Callable[[Tensor, Tensor], Tensor]
OnWalk = Callable[[int, Tensor, Tensor, Tensor, Tensor], None]
"""What hears of each step: its number, ids [B, L], confidences [B, L], which are masked again
[B, L], and how likely the ids were, [B, L], 1 where they were known."""

RATIOS: dict[str, Callable[[float], float]] = {
    "cosine": lambda r: math.cos(math.pi / 2 * r),
    "arccos": lambda r: math.acos(r) / (math.pi / 2),
    "square": lambda r: 1 - r**2,
    "cubic": lambda r: 1 - r**3,
}
"""gamma(r), the share of masked tokens, falling from 1 at r = 0 to 0 at r = 1 (section 3.3; square
and cubic: section 4.4; arccos: Besnier et al. 2025)."""

ORDERS: dict[str, Callable[[float], float]] = {
    "confidence": RATIOS["cosine"],
    "halton": RATIOS["arccos"],
    "undecided": lambda r: 1.0,  # one token a step, until the last
}
"""By what tokens are kept, each with the share masked again after the share r of the steps."""


LIKELY = 32  # tokens that reach top_p nearly always


class Uniform(Protocol):
    """Draws for a batch, one generator per member (gentool.rng.BatchRng)."""

    def uniform(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Uniform numbers in [0, 1), [B, *shape]."""
        ...


def random_mask(r: Tensor, scores: Tensor, schedule: str) -> Tensor:
    """Which tokens training hides, [B, L]: ceil(gamma(r) L) of them, at least one, those of the
    lowest scores. r [B] and scores [B, L]: uniform."""
    L = scores.shape[1]
    gamma = RATIOS[schedule]
    n = torch.tensor([max(1, math.ceil(gamma(float(x)) * L)) for x in r])
    return lowest(scores, n)


def training_loss(
    logits_fn: LogitsFn, ids: Tensor, is_masked: Tensor, mask_id: int, label_smoothing: float = 0.0
) -> Tensor:
    """-log p(ids) of the masked tokens (section 3.1), the mean over those of each picture, [B]."""
    logits = logits_fn(torch.where(is_masked, mask_id, ids), is_masked)
    nll = F.cross_entropy(
        logits.float(), ids[is_masked], reduction="none", label_smoothing=label_smoothing
    )
    rows = torch.zeros(ids.shape, dtype=nll.dtype, device=nll.device).masked_scatter(is_masked, nll)
    return rows.sum(dim=1) / is_masked.sum(dim=1)


def walk_loss(logits_fn: LogitsFn, ids: Tensor, mask_id: int, steps: int) -> Tensor:
    """-log p(ids) / steps, [B], where ids [B, L] is drawn as `decode` does in undecided order.

    From nothing but masks, each step but the last tells the token of which the network is least
    sure, and the last one all others. So it learns where decoding takes it and what is drawn there,
    which random masks seldom ask for. Not from a paper.
    """
    steps = min(steps, ids.shape[1])
    is_masked = torch.ones_like(ids, dtype=torch.bool)
    total = torch.zeros(len(ids), device=ids.device)
    for step in range(steps):
        logits = logits_fn(torch.where(is_masked, mask_id, ids), is_masked).float()  # [M, V]
        drawn = is_masked  # [B, L]
        if step < steps - 1:
            score = torch.full(ids.shape, -1.0, device=ids.device).masked_scatter(
                is_masked, doubt(logits.detach())
            )
            drawn = F.one_hot(score.argmax(dim=1), ids.shape[1]).bool()
        nll = F.cross_entropy(logits[drawn[is_masked]], ids[drawn], reduction="none")
        rows = torch.zeros(ids.shape, device=ids.device).masked_scatter(drawn, nll)
        total = total + rows.sum(dim=1)
        is_masked = is_masked & ~drawn
    return total / steps


@torch.no_grad()
def decode(
    logits_fn: Callable[[Tensor, Tensor, float], Tensor],
    ids: Tensor,
    rng: Uniform,
    *,
    K: int,
    mask_id: int,
    steps: int,
    choice_temperature: float = 4.5,
    temperature: float = 1.0,
    top_p: float = 1.0,
    entropy_cutoff: float = 0.0,
    order: str = "confidence",
    on_step: OnWalk | None = None,
) -> Tensor:
    """Iterative decoding (section 3.2): ids [B, L] with its masked tokens drawn, ids below K.

    logits_fn is also told how far the steps are, from 0 to 1 at the last, for guidance that grows.
    Each step draws every masked token, and masks again the least confident. Confidence is the
    log-probability of the token drawn, with Gumbel noise of scale choice_temperature that falls
    linearly to 0; it is infinite where the token was known. At least one token is masked again
    until the last step, at least one kept; what the last step drew is returned.

    order, in place of confidence: `halton`, for square pictures, keeps tokens by a fixed rank;
    `undecided` keeps one token a step, of which the network is least sure (its likeliest value is
    the least likely), and all others in the last. temperature, top_p and entropy_cutoff: of
    the draw of a token. Draws, 2 L for each step and picture, are in fp64, so that unlikely tokens
    and noise keep their shares.
    """
    gamma = ORDERS[order]
    L = ids.shape[1]
    ranks = halton(math.isqrt(L)).to(ids.device) if order == "halton" else None
    unknown = (ids == mask_id).sum(dim=1)  # [B], at the start
    full = ids  # with what was drawn
    for step in range(steps):
        is_masked = ids == mask_id
        u_token, u_choice = (rng.uniform(L, dtype=torch.float64).to(ids.device) for _ in range(2))
        done = step / (steps - 1) if steps > 1 else 1.0
        logits = logits_fn(ids, is_masked, done)[:, :K].float()  # [M, K]
        among = cutoff(nucleus(logits / temperature, top_p), entropy_cutoff)
        drawn = categorical(among, u_token[is_masked])
        # Of the network's distribution: of one cut down to a few tokens all would be sure.
        log_p = logits.log_softmax(dim=-1).gather(1, drawn[:, None])[:, 0]
        full = ids.masked_scatter(is_masked, drawn)
        p = torch.ones_like(u_token).masked_scatter(is_masked, log_p.double().exp())
        ratio = (step + 1) / steps
        if ranks is not None:
            score = -ranks.expand(ids.shape)[is_masked].double()  # [M]
        elif order == "undecided":
            score = doubt(logits).double()
        else:
            gumbel = -(-u_choice[is_masked].log()).log()
            score = log_p.double() + choice_temperature * (1 - ratio) * gumbel
        confidence = torch.full_like(p, torch.inf).masked_scatter(is_masked, score)
        n_mask = mask_count(unknown, is_masked.sum(dim=1), gamma(ratio))
        again = lowest(confidence, n_mask)
        if on_step:
            on_step(step, full, confidence, again, p)
        ids = torch.where(again, mask_id, full)
    return full


def mask_count(unknown: Tensor, masked: Tensor, gamma: float) -> Tensor:
    """How many of the tokens masked now are masked again, [B]: floor(gamma · unknown), but at least
    one, and one fewer than now where there are two. unknown [B]: masked at the start."""
    # In fp64, as 256 cos(pi / 3) is a whole number.
    n = (unknown.double() * gamma + 1e-9).floor().long()
    return torch.minimum(n, masked - 1).clamp(min=1).minimum(masked)


def lowest(confidence: Tensor, n: Tensor) -> Tensor:
    """The n [B] positions of least confidence [B, L]; of equal ones the first. [B, L] bool"""
    ranks = confidence.argsort(dim=1, stable=True).argsort(dim=1)
    return ranks < n[:, None]


def categorical(logits: Tensor, u: Tensor) -> Tensor:
    """A draw from softmax(logits), logits [M, K], by its distribution function at u [M] in [0, 1):
    ids [M]."""
    p = logits.softmax(dim=-1)
    total = p.cumsum(dim=-1, dtype=torch.float64)  # [M, K]
    ids = torch.searchsorted(total, u.double()[:, None] * total[:, -1:], right=True)
    # Rounding may leave u at the end: the last token that has a probability.
    last = (p.shape[1] - 1) - (logits > -torch.inf).flip(1).float().argmax(dim=1)
    return ids[:, 0].minimum(last)


def doubt(logits: Tensor) -> Tensor:
    """How unlikely the likeliest token is: 1 - max p, [M, K] to [M]."""
    return 1 - logits.softmax(dim=-1).amax(dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """Of softmax(logits), in nats: [M, K] to [M]."""
    return torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1)


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """The logits [M, K] with -inf for all but the fewest most likely tokens whose probabilities
    reach top_p (Holtzman et al. 2020)."""
    if top_p >= 1:
        return logits
    p, K = logits.softmax(dim=-1), logits.shape[-1]
    k, enough = LIKELY // 2, False
    while not enough:  # to sort all K takes ten times as long, and few are needed
        k = min(2 * k, K)
        ordered, places = p.topk(k)
        before = ordered.cumsum(dim=-1) - ordered  # of the more likely ones
        enough = k == K or bool((before[:, -1] + ordered[:, -1] >= top_p).all())
    kept = logits.gather(1, places).masked_fill(before >= top_p, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(1, places, kept)


def cutoff(logits: Tensor, share: float) -> Tensor:
    """The logits [M, K] with -inf for tokens less likely than share · exp(-H), but for the
    likeliest; H is the entropy, so that exp(H) tokens are open and exp(-H) is their equal share.

    The threshold by entropy of eta sampling (Hewitt et al. 2022): a small network gives a little to
    each of many tokens that cannot be, and all of it together is drawn often.
    """
    if share <= 0:
        return logits
    p = logits.softmax(dim=-1)
    least = share * (-entropy(logits)).exp()[:, None]
    return logits.masked_fill(p < p.amax(dim=-1, keepdim=True).minimum(least), -torch.inf)


def guidance(scale: float, schedule: str, done: float) -> float:
    """The scale at a step, `done` 0 at the first and 1 at the last: `constant`, or `linear`, from 1
    (none) to `scale`."""
    return {"constant": scale, "linear": 1 + (scale - 1) * done}[schedule]


def guided(logits_c: Tensor, logits_u: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2021), as Muse's: l_u + scale (l_c - l_u)."""
    return logits_u + scale * (logits_c - logits_u)


def halton(side: int) -> Tensor:
    """The rank of each of side × side positions in the Halton sequence of bases 2 and 3, [L], so
    that tokens kept together are far apart (Besnier et al. 2025)."""
    ranks = torch.full((side * side,), -1)
    rank = index = 0
    while rank < side * side:
        index += 1
        column, row = (int(_van_der_corput(index, base) * side) for base in (2, 3))
        if ranks[row * side + column] < 0:
            ranks[row * side + column] = rank
            rank += 1
    return ranks


def _van_der_corput(index: int, base: int) -> float:
    """The digits of `index` in `base`, mirrored at the point."""
    value, weight = 0.0, 1.0 / base
    while index:
        index, digit = divmod(index, base)
        value += digit * weight
        weight /= base
    return value


def grow(region: Tensor) -> Tensor:
    """A region of tokens [B, H_z, W_z] (bool) and all their neighbours."""
    return F.max_pool2d(region[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
