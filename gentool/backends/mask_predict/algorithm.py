"""Mask-Predict (Ghazvininejad et al. 2019): train to fill masks, decode by masking what is unsure.

A target of N tokens, the end of the sentence among them, is a row of ids [B, L], padded. The model
is P(Y_mask | Y_obs, X): `logits_fn(ids, is_masked)` gives logits for the masked positions of ids
[B, L] alone, [n_masked, V], row by row. It has the source X from whoever made it.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

LogitsFn = Callable[[Tensor, Tensor], Tensor]
OnPass = Callable[[int, Tensor, Tensor, Tensor], None]
"""Is told of each pass: its number t, the ids [B, L] after it, their probabilities [B, L], and
which were masked before it, bool [B, L]."""

SURE = 0.6  # a token less probable than this costs the fast way a pass
SHORTEST = 2  # length of a hypothesis, as in the authors' code: a token and the end


def masked_positions(N: Tensor, L: int, u: Tensor, order: Tensor) -> Tensor:
    """Which of N [B] tokens to mask in training, bool [B, L]: n of them, n uniform in 1..N.

    u [B] and order [B, L or more]: uniform in [0, 1). They choose n, and the n positions, those of
    least `order`. (The authors' code never masks all N: its bound is exclusive.)
    """
    n = (u * N + 1).long().clamp(max=N)
    is_token = torch.arange(L) < N[:, None]
    return lowest(order[:, :L].masked_fill(~is_token, torch.inf), n)


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
    over B are what is minimised. (Theirs is the batch of all processes and micro-batches; here each
    has its own share, and these count alike.)
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
    logits_fn: LogitsFn,
    N: Tensor,
    T: int,
    mask_id: int,
    pad_id: int,
    on_step: OnPass | None = None,
) -> tuple[Tensor, Tensor]:
    """The decoding algorithm (section 3.1): ids [R, L] of N [R] tokens after T passes, and the log
    probability with which each was last predicted, [R, L], 0 at the padding."""
    ids, log_p = blank(N, mask_id, pad_id)
    for t in range(T):
        n = n_masked(N, t, T)
        ids, log_p, is_masked = one_pass(logits_fn, ids, log_p, N, n, mask_id)
        if on_step:
            on_step(t, ids, log_p.exp(), is_masked)
    return ids, log_p


@torch.no_grad()
def fast_mask_predict(
    logits_fn: Callable[[Tensor, Tensor, Tensor], Tensor],
    N: Tensor,
    length_log_p: Tensor,
    T: int,
    mask_id: int,
    pad_id: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Not the paper's: a first pass of all candidates N [B, beam], then `mask_predict` of one of
    them, in as many passes as it needs.

    That is the one of highest mean log probability, where that of its length, length_log_p
    [B, beam], is added to those of its tokens. With u of its tokens below SURE it takes min(u, T)
    passes in all, at least the first, and the later ones mask as many of its tokens as those of a
    target of u tokens.

    logits_fn(sources, ids, is_masked): sources [S] are those that the rows are of, as many rows for
    each, one source after the other. Returns ids and log probabilities [B, L], N [B], and how many
    passes each source took, [B].
    """
    B, beam = N.shape
    sources, lengths = torch.arange(B, device=N.device), N.flatten()
    ids, log_p = blank(lengths, mask_id, pad_id)
    ids, log_p, _ = one_pass(partial(logits_fn, sources), ids, log_p, lengths, lengths, mask_id)
    joint = log_p.sum(dim=1).view(B, beam) + length_log_p
    best = (joint / N).argmax(dim=1)
    N = N[sources, best]
    ids, log_p = (x.view(B, beam, -1)[sources, best, : int(N.max())] for x in (ids, log_p))
    u = (log_p < math.log(SURE)).sum(dim=1)  # [B]; padding has log probability 0, and is sure
    passes = u.clamp(min=1, max=T)
    for t in range(1, int(passes.max())):
        rows = (t < passes).nonzero()[:, 0]
        n = n_masked(u[rows], t, passes[rows])
        ids[rows], log_p[rows], _ = one_pass(
            partial(logits_fn, rows), ids[rows], log_p[rows], N[rows], n, mask_id
        )
    return ids, log_p, N, passes


def blank(N: Tensor, mask_id: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of N [R] masks, padded, [R, L], and the log probabilities of nothing."""
    is_token = torch.arange(int(N.max()), device=N.device) < N[:, None]
    ids = torch.where(is_token, mask_id, pad_id)
    return ids, torch.zeros(ids.shape, device=N.device)


def one_pass(
    logits_fn: LogitsFn, ids: Tensor, log_p: Tensor, N: Tensor, n: Tensor, mask_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mask the n [R] least likely of N [R] tokens and predict them.

    ids and log_p [R, L] before it; returns both after it and which were masked, bool [R, L]. What
    is not masked keeps its token, and the probability it had when that was predicted.
    """
    is_token = torch.arange(ids.shape[1], device=ids.device) < N[:, None]
    is_masked = lowest(log_p.masked_fill(~is_token, torch.inf), n)
    ids, log_p = ids.masked_fill(is_masked, mask_id), log_p.clone()
    ids[is_masked], log_p[is_masked] = most_likely(logits_fn(ids, is_masked))
    return ids, log_p, is_masked


def n_masked(N: Tensor, t: int, T: int | Tensor) -> Tensor:
    """How many of N tokens are masked before pass t = 0..T-1: N (T - t) / T, at least one.

    In whole numbers: in floating point 10 (10 - 8) / 10 is 1.999….
    """
    return (N * (T - t) // T).clamp(min=1)


def lowest(values: Tensor, n: Tensor) -> Tensor:
    """The n [B] lowest of values [B, L], bool [B, L]; of equal ones the first."""
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
