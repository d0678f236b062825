"""Mask-Predict (Ghazvininejad et al. 2019): train to fill masks, decode by masking what is unsure.

A target of N tokens, the end of the sentence among them, is a row of ids [B, L], padded. The model
is P(Y_mask | Y_obs, X): `model_fn(ids, is_masked)` gives logits for the masked positions of ids
[B, L] alone, [n_masked, V], row by row. It has the source X from whoever made it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ModelFn = Callable[[Tensor, Tensor], Tensor]
OnStep = Callable[[int, Tensor, Tensor, Tensor], None]
"""Is told of each pass: its number t, the ids [B, L] after it, their probabilities [B, L], and
which were masked before it, bool [B, L]."""

EXPLORED = 2  # passes before the fast way drops a candidate
MARGIN = 0.3  # of mean log probability behind the best one at which a candidate is hopeless
PATIENCE = 4  # passes without a change after which it leaves a source
SHORTEST = 2  # length of a hypothesis, as in the authors' code: a token and the end


def masked_positions(N: Tensor, L: int, u: Tensor, order: Tensor) -> Tensor:
    """Which of N [B] tokens to mask in training, bool [B, L]: n of them, n uniform in 1..N.

    u [B] and order [B, L or more]: uniform in [0, 1). They choose n, and the n positions, those of
    least `order`. (The authors' code never masks all N: its bound is exclusive.)
    """
    n = (u * N + 1).long().clamp(max=N)
    is_token = torch.arange(L) < N[:, None]
    return least(order[:, :L].masked_fill(~is_token, torch.inf), n)


def training_loss(
    logits: Tensor,
    length_logits: Tensor,
    ids: Tensor,
    is_masked: Tensor,
    N: Tensor,
    smoothing: float = 0.1,
) -> dict[str, Tensor]:
    """The terms of the loss, [B] each: cross-entropy of the masked tokens, smoothed, and of the
    length.

    logits [n_masked, V] and length_logits [B, L_max + 1]: what the model makes of the masked
    targets; ids [B, L]: the targets; is_masked bool [B, L]; N [B].

    As in the authors' code both are sums, divided by the masked tokens of the batch: their means
    over B are what is minimised.
    """
    nll = F.cross_entropy(
        logits.float(), ids[is_masked], reduction="none", label_smoothing=smoothing
    )
    rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)[is_masked]
    per_row = torch.zeros(len(ids), device=ids.device).index_add(0, rows, nll)
    share = len(ids) / is_masked.sum()
    length = F.cross_entropy(length_logits.float(), N, reduction="none")
    return {"tokens": share * per_row, "length": share * length}


def likely_lengths(length_logits: Tensor, beam: int) -> Tensor:
    """The `beam` most likely target lengths, [B, beam], of length_logits [B, L_max + 1]."""
    return length_logits.topk(beam, dim=1).indices.clamp(min=SHORTEST)


def gold_lengths(N: Tensor, beam: int, longest: int) -> Tensor:
    """The `beam` lengths around those of the references, N [B], in place of predicted ones."""
    around = torch.arange(beam, device=N.device) - (beam - 1) // 2
    return (N[:, None] + around).clamp(min=SHORTEST, max=longest)


@torch.no_grad()
def mask_predict(
    model_fn: ModelFn,
    N: Tensor,
    T: int,
    mask_id: int,
    pad_id: int,
    on_step: OnStep | None = None,
) -> tuple[Tensor, Tensor]:
    """The decoding algorithm (section 3.1): ids [R, L] of N [R] tokens after T passes, and the log
    probability with which each was last predicted, [R, L], 0 at the padding."""
    ids, log_p = blank(N, mask_id, pad_id)
    for t in range(T):
        ids, log_p, is_masked = one_pass(model_fn, ids, log_p, N, t, T, mask_id)
        if on_step:
            on_step(t, ids, log_p.exp(), is_masked)
    return ids, log_p


@torch.no_grad()
def fast_mask_predict(
    model_fn: Callable[[Tensor, Tensor, Tensor], Tensor],
    N: Tensor,
    T: int,
    mask_id: int,
    pad_id: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Not the paper's: `mask_predict` of the candidates N [B, beam], of which those that are MARGIN
    behind the best of their source after EXPLORED passes or later are dropped; a source is left
    when PATIENCE passes in a row have changed no token of those that remain.

    model_fn is told as well of which source each of the rows is, [R], or in the first passes of
    which sources equally many rows are, [B]. Returns ids and log probabilities [B, L], N [B], and
    passes [B] of the candidate that was kept.
    """
    B, beam = N.shape
    source = torch.arange(B, device=N.device).repeat_interleave(beam)  # of each row
    N = N.flatten()
    ids, log_p = blank(N, mask_id, pad_id)
    n_same, passes = torch.zeros_like(N), torch.zeros_like(source[::beam])
    hopeful = torch.ones_like(N, dtype=torch.bool)
    rows = torch.arange(len(N), device=N.device)  # that are still decoded
    for t in range(T):
        of = source[::beam] if t < EXPLORED else source[rows]
        L = int(N[rows].max())
        before = ids[rows, :L]
        ids[rows, :L], log_p[rows, :L], _ = one_pass(
            lambda ids, is_masked: model_fn(ids, is_masked, of),  # noqa: B023, called at once
            before, log_p[rows, :L], N[rows], t, T, mask_id,
        )  # fmt: skip
        same = (ids[rows, :L] == before).all(dim=1)
        n_same[rows] = torch.where(same, n_same[rows] + 1, 0)
        passes[source[rows]] = t + 1
        if t + 1 >= EXPLORED:
            mean = score(log_p, N).masked_fill(~hopeful, -torch.inf)
            hopeful &= mean >= mean.view(B, beam).amax(dim=1)[source] - MARGIN
            restless = (n_same < PATIENCE) & hopeful
            rows = rows[hopeful[rows] & restless.view(B, beam).any(dim=1)[source[rows]]]
            if not len(rows):
                break
    mean = score(log_p, N).masked_fill(~hopeful, -torch.inf)
    best = source[::beam] * beam + mean.view(B, beam).argmax(dim=1)
    return ids[best], log_p[best], N[best], passes


def blank(N: Tensor, mask_id: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of N [R] masks, padded, [R, L], and the log probabilities of nothing."""
    is_token = torch.arange(int(N.max()), device=N.device) < N[:, None]
    ids = torch.where(is_token, mask_id, pad_id)
    return ids, torch.zeros(ids.shape, device=N.device)


def one_pass(
    model_fn: ModelFn, ids: Tensor, log_p: Tensor, N: Tensor, t: int, T: int, mask_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Pass t: mask the least likely of N tokens, all in the first one, and predict them.

    ids and log_p [R, L] before it; returns both after it and which were masked, bool [R, L]. What
    is not masked keeps its token, and the probability it had when that was predicted.
    """
    is_token = torch.arange(ids.shape[1], device=ids.device) < N[:, None]
    n = n_masked(N, t, T)
    is_masked = least(log_p.masked_fill(~is_token, torch.inf), n)
    ids, log_p = ids.masked_fill(is_masked, mask_id), log_p.clone()
    ids[is_masked], log_p[is_masked] = most_likely(model_fn(ids, is_masked))
    return ids, log_p, is_masked


def n_masked(N: Tensor, t: int, T: int) -> Tensor:
    """How many of N tokens are masked before pass t = 0..T-1: N (T - t) / T, at least one.

    In whole numbers: in floating point 10 (10 - 8) / 10 is 1.999….
    """
    return (N * (T - t) // T).clamp(min=1)


def least(values: Tensor, n: Tensor) -> Tensor:
    """The n [B] least of values [B, L], bool [B, L]; of equal ones the first."""
    rank = values.argsort(dim=1, stable=True).argsort(dim=1)
    return rank < n[:, None]


def most_likely(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The most likely token of logits [n, V] and its log probability, [n] each, in fp32.

    From what all others have together, so that even tokens of which the model is all but certain
    can be told apart: 1 - 1e-9 is 1 in fp32.
    """
    p = logits.float().softmax(dim=1)
    most, ids = p.max(dim=1)
    others = p.scatter_(1, ids[:, None], 0).sum(dim=1)
    return ids, torch.where(most < 0.5, most.log(), (-others).log1p())


def score(log_p: Tensor, N: Tensor) -> Tensor:
    """By which hypotheses of different lengths are compared: their mean log probability, [B]."""
    return log_p.sum(dim=1) / N
