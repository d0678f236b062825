"""Mask-Predict: the decoding loop, and the same again as a plain second implementation that
computes everything anew for every source, candidate and pass."""

import math
from collections import Counter

import pytest
import torch
from mask_network import LONGEST, MASK, PAD, SMALL, V, network

from gentool.backends.mask_predict import Config, DecodeConfig, algorithm
from gentool.backends.mask_predict.algorithm import (
    gold_lengths,
    likely_lengths,
    lowest,
    mask_predict,
    most_likely,
    n_masked,
    score,
)
from gentool.backends.mask_predict.backend import Backend
from gentool.backends.mask_predict.network import MaskPredictTransformer
from gentool.data.config import PairData
from gentool.rng import generator


def sources(n, seed=0, longest=9):
    """Sources of different lengths without padding."""
    g = generator("sources", seed)
    lengths = torch.randint(1, longest + 1, (n,), generator=g).tolist()
    return [torch.randint(5, V, (N,), generator=g).tolist() for N in lengths]


# --- the second implementation


@torch.no_grad()
def plainly(net, src_ids, T, beam, candidates=None):
    """(ids, score) of each candidate of one source, the best first; as in the paper, in float64,
    one row at a time, without padding. candidates: lengths, in place of the likeliest."""
    found = []
    likely = lengths(net, src_ids).topk(beam).indices.tolist()
    for N in candidates or (max(2, N) for N in likely):
        y, p = [MASK] * N, [0.0] * N
        for t in range(T):
            predict(net, src_ids, y, p, max(1, N * (T - t) // T))
        found.append((y, sum(map(math.log, p)) / N))
    return sorted(found, key=lambda candidate: -candidate[1])


@torch.no_grad()
def predict(net, src_ids, y, p, k):
    """Mask the k tokens of y of least p, and fill them in."""
    masked = sorted(range(len(y)), key=lambda i: (p[i], i))[:k]
    for i in masked:
        y[i] = MASK
    everywhere = torch.ones(1, len(y), dtype=torch.bool)
    logits, _ = net.double()(torch.tensor([src_ids]), torch.tensor([y]), everywhere)
    net.float()
    probabilities = logits.softmax(dim=1)
    for i in masked:
        y[i] = int(probabilities[i].argmax())
        p[i] = float(probabilities[i].max())


@torch.no_grad()
def lengths(net, src_ids):
    """The log probability of each length of a target."""
    one = torch.ones(1, 1)
    logits = net.double()(torch.tensor([src_ids]), MASK * one.long(), one.bool())[1][0]
    net.float()
    return logits.log_softmax(0)


def quickly(net, src_ids, T, beam, sure):
    """(ids, score, passes) of the fast way."""

    def joint(candidate):
        ids, score = candidate
        return score + lengths(net, src_ids)[len(ids)].item() / len(ids)

    N = len(max(plainly(net, src_ids, 1, beam), key=joint)[0])
    y, p = [MASK] * N, [0.0] * N
    predict(net, src_ids, y, p, N)
    u = sum(q < sure for q in p)
    passes = max(1, min(u, T))
    for t in range(1, passes):
        predict(net, src_ids, y, p, u * (passes - t) // passes)
    return y, sum(map(math.log, p)) / N, passes


class Spelled:
    """A tokenizer of numbers, whose texts are the ids themselves."""

    size, hash, kind = V, "spelled", "words"

    def special(self, name):
        return ("pad", "unk", "bos", "eos", "mask").index(name)

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.fixture
def backend():
    config = Config(data=PairData(length=LONGEST), model=SMALL)
    return Backend(config, Spelled())


@pytest.mark.parametrize("T, beam", [(1, 1), (1, 5), (4, 3), (10, 5), (10, 1), (25, 2)])
def test_the_same_hypotheses_as_the_plain_implementation(backend, T, beam):
    net, rows = network(), sources(7)
    made = backend.translate(net, rows, DecodeConfig(T, beam), n_best=beam)
    assert len(made) == 7
    for src_ids, hypotheses in zip(rows, made, strict=True):
        expected = plainly(net, src_ids, T, beam)
        assert [h.text for h in hypotheses] == [" ".join(map(str, ids)) for ids, _ in expected]
        for hypothesis, (ids, value) in zip(hypotheses, expected, strict=True):
            assert hypothesis.score == pytest.approx(value, abs=1e-4)
            assert (hypothesis.length, hypothesis.steps) == (len(ids), T)


def test_hypotheses_do_not_depend_on_the_rest_of_the_batch(backend):
    net, rows = network(), sources(8)
    together = backend.translate(net, rows, DecodeConfig(4, 3), n_best=3)
    alone = [backend.translate(net, [row], DecodeConfig(4, 3), n_best=3)[0] for row in rows]
    backwards = backend.translate(net, rows[::-1], DecodeConfig(4, 3), n_best=3)[::-1]
    texts = [[h.text for h in hypotheses] for hypotheses in together]
    assert len({text for [text, *_] in texts}) > 4, "the sources matter"
    for other in (alone, backwards):
        assert [[h.text for h in hypotheses] for hypotheses in other] == texts


def test_what_cannot_change_is_computed_once(backend, monkeypatch):
    net, calls, sizes = network(), Counter(), []
    for place, name in [(net, "encode"), (net, "decode"), (net.decoder[0].cross, "keys_values")]:
        call = getattr(place, name)

        def counting(*given, name=name, call=call):
            calls[name] += 1
            if name == "decode":
                sizes.append(int(given[1].sum()))  # of what is masked
            return call(*given)

        monkeypatch.setattr(place, name, counting)
    backend.translate(net, sources(3), DecodeConfig(6, 4))
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert calls == {"encode": 1, "keys_values": 1, "decode": 6}
    ids = torch.full((2, 5), MASK)
    is_masked = torch.tensor([[True] * 5, [False, True, False, True, False]])
    memory = net.encode(torch.tensor([[7, 8], [9, PAD]]))
    assert net.decode(ids, is_masked, memory).shape == (7, V), "logits of masked positions alone"
    assert memory.keys_values[0][0].shape[0] == 2, "of sources, not of candidates"


@pytest.mark.parametrize("sure", [0.1, 0.5, 1.0])
def test_fast_decodes_one_candidate_until_it_is_sure(backend, monkeypatch, sure):
    net, rows, T, beam, called = network(), sources(20), 10, 4, []
    decode = MaskPredictTransformer.decode

    def counting(self, ids, is_masked, memory):
        called.append(len(ids))
        return decode(self, ids, is_masked, memory)

    monkeypatch.setattr(algorithm, "SURE", sure)
    monkeypatch.setattr(MaskPredictTransformer, "decode", counting)
    fast = backend.translate(net, rows, DecodeConfig(T, beam), fast=True)
    monkeypatch.undo()
    expected = [quickly(net, row, T, beam, sure) for row in rows]
    for [found], (ids, value, passes) in zip(fast, expected, strict=True):
        assert (found.text, found.steps) == (" ".join(map(str, ids)), passes)
        assert found.score == pytest.approx(value, abs=1e-4)
    taken = [passes for _, _, passes in expected]
    assert called == [20 * beam, *(sum(n > t for n in taken) for t in range(1, max(taken)))]
    longest = [min(len(ids), T) for ids, *_ in expected]  # where nothing is sure
    if sure == 0.5:
        assert [1] * 20 != taken != longest
    else:
        assert taken == {0.1: [1] * 20, 1.0: longest}[sure]
    first = [plainly(net, row, 1, beam)[0] for row in rows]
    same = [len(ids) == len(best) for (ids, *_), (best, _) in zip(expected, first, strict=True)]
    assert 0 < sum(same) < 20, "the lengths' own probabilities matter"


def test_fast_lets_references_choose_among_lengths(backend):
    net, rows, gold = network(), sources(10), [3, 7] * 5
    made = backend.translate(net, rows, DecodeConfig(1, 3), fast=True, gold=gold)
    for [found], src_ids, N in zip(made, rows, gold, strict=True):
        ids, _ = plainly(net, src_ids, 1, 3, [N - 1, N, N + 1])[0]
        assert found.text == " ".join(map(str, ids))
    assert [h.length for [h] in made] != gold


# --- the decoding loop


def table_model(seed, rows, L):
    """A logits_fn that answers from a table, whatever it sees, and the table: [rows, L, V]."""
    table = torch.randn(rows, L, V, generator=generator("table", seed))
    return (lambda ids, is_masked: table[is_masked]), table


def test_counts_of_section_8():
    def counts(N, T):
        return [int(n_masked(torch.tensor([N]), t, T)) for t in range(1, T)]

    assert counts(10, 4) == [7, 5, 2]
    assert counts(10, 10) == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert counts(25, 10) == [22, 20, 17, 15, 12, 10, 7, 5, 2]
    assert counts(6, 10) == [5, 4, 4, 3, 3, 2, 1, 1, 1]


def test_one_pass_is_the_argmax_everywhere():
    logits_fn, table = table_model(0, 3, 6)
    N = torch.tensor([6, 3, 4])
    ids, log_p = mask_predict(logits_fn, N, 1, MASK, PAD)
    is_token = torch.arange(6) < N[:, None]
    assert torch.equal(ids[is_token], table.argmax(-1)[is_token])
    assert torch.equal(ids[~is_token], torch.full_like(ids[~is_token], PAD))
    torch.testing.assert_close(log_p[is_token], table.log_softmax(-1).amax(-1)[is_token])
    assert (log_p[~is_token] == 0).all()


def test_kept_tokens_keep_token_and_probability_and_pads_never_change():
    g = generator("loop")
    N, T, seen = torch.tensor([9, 4, 7, 2]), 5, []

    def logits_fn(ids, is_masked):
        assert (ids[is_masked] == MASK).all() and (ids[~is_masked] != MASK).all()
        return 4 * torch.randn(int(is_masked.sum()), V - 5, generator=g).repeat_interleave(1, 0)

    def on_step(t, ids, p, is_masked):
        seen.append((t, ids.clone(), p.clone(), is_masked.clone()))

    final, log_p = mask_predict(
        lambda ids, m: torch.nn.functional.pad(logits_fn(ids, m), (5, 0), value=-9),
        N, T, MASK, PAD, on_step,
    )  # fmt: skip
    assert [t for t, *_ in seen] == list(range(T))
    is_token = torch.arange(9) < N[:, None]
    assert torch.equal(seen[0][3], is_token)
    for (_, before, p_before, _), (t, after, p, is_masked) in zip(seen, seen[1:], strict=False):
        assert torch.equal(is_masked.sum(1), n_masked(N, t, T)), "exact counts"
        assert not is_masked[~is_token].any() and (after[~is_token] == PAD).all()
        assert torch.equal(after[~is_masked], before[~is_masked])
        assert torch.equal(p[~is_masked], p_before[~is_masked])
        # Those that were masked were the least likely.
        for row in range(4):
            real = p_before[row][is_token[row]]
            k = int(is_masked[row].sum())
            assert p_before[row][is_masked[row]].max() <= real.sort().values[k - 1]
    assert torch.equal(final, seen[-1][1]) and torch.allclose(log_p.exp(), seen[-1][2])


def test_the_least_are_exactly_n_and_ties_go_to_the_first():
    values = torch.tensor([[3.0, 1, 1, 1, 2], [0, 0, 0, 0, 0]])
    chosen = lowest(values, torch.tensor([2, 3]))
    assert chosen.tolist() == [[False, True, True, False, False], [True, True, True, False, False]]


def test_tokens_that_are_all_but_certain_can_be_told_apart():
    logits = torch.zeros(3, V)
    logits[:, 7] = torch.tensor([25.0, 30.0, 60.0])
    ids, log_p = most_likely(logits)
    exact = logits.double().log_softmax(-1)[:, 7]
    assert ids.tolist() == [7, 7, 7] and (logits.log_softmax(-1)[:, 7] == 0).all()
    assert log_p[0] < log_p[1] < log_p[2] < 0
    torch.testing.assert_close(log_p[:2].double(), exact[:2], rtol=1e-3, atol=0)


def test_lengths_are_compared_by_the_mean_log_probability():
    log_p = torch.tensor([[-1.0, -1, 0, 0], [-0.9, -0.9, -0.9, -0.9]])
    assert score(log_p, torch.tensor([2, 4])).tolist() == pytest.approx([-1.0, -0.9])


def test_lengths():
    logits = torch.tensor([[-torch.inf, 9.0, 3.0, 5.0, 4.0]])
    assert likely_lengths(logits, 3).tolist() == [[2, 3, 4]], "at least a token and the end"
    assert gold_lengths(torch.tensor([6, 2, 11]), 5, LONGEST).tolist() == [
        [4, 5, 6, 7, 8], [2, 2, 2, 3, 4], [9, 10, 11, 12, 12],
    ]  # fmt: skip
    assert gold_lengths(torch.tensor([6]), 1, LONGEST).tolist() == [[6]]
    assert gold_lengths(torch.tensor([6]), 2, LONGEST).tolist() == [[6, 7]]
