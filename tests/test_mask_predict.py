"""Mask-Predict: masks and loss, the decoding loop, and the same again as a plain second
implementation that computes everything anew for every source, candidate and pass."""

import math
from collections import Counter

import pytest
import torch

from gentool.backends.mask_predict import Config, DecodeConfig, ModelConfig, algorithm
from gentool.backends.mask_predict.algorithm import (
    gold_lengths,
    least,
    likely_lengths,
    mask_predict,
    masked_positions,
    most_likely,
    n_masked,
    score,
    training_loss,
)
from gentool.backends.mask_predict.backend import Backend
from gentool.backends.mask_predict.network import MaskPredictTransformer
from gentool.data.config import PairData
from gentool.data.loader import TooLong
from gentool.data.rows import padded
from gentool.data.scenes import SceneTexts
from gentool.errors import BadDataError, UsageError
from gentool.rng import BatchRng, generator
from gentool.tokenizers import train
from gentool.tokenizers.sides import Sides

PAD, MASK, V, LONGEST = 0, 4, 23, 12
SMALL = ModelConfig(hidden=16, feedforward=32, encoder_layers=2, decoder_layers=2, heads=4)


def network(seed=0, src_size=0):
    """A small network whose weights are large enough to prefer some tokens."""
    torch.manual_seed(seed)
    net = MaskPredictTransformer(SMALL, V, src_size, LONGEST, (PAD, PAD)).eval()
    for parameter in net.parameters():
        parameter.data *= 8
    return net


def sources(n, seed=0, longest=9):
    """Sources of different lengths without padding."""
    g = generator("sources", seed)
    lengths = torch.randint(1, longest + 1, (n,), generator=g).tolist()
    return [torch.randint(5, V, (N,), generator=g).tolist() for N in lengths]


# --- the second implementation


@torch.no_grad()
def plainly(net, src_ids, passes, beam, T=None):
    """(ids, score) of each candidate of one source after so many passes (of T, if there are more),
    the best first; as in the paper, in float64, one row at a time, without padding."""
    net, T = net.double(), T or passes
    length_logits = net(torch.tensor([src_ids]), torch.tensor([[MASK]]), torch.ones(1, 1).bool())[1]
    lengths = length_logits[0].log_softmax(0).topk(beam).indices.tolist()
    found = []
    for N in (max(2, N) for N in lengths):
        y, p = [MASK] * N, [0.0] * N
        for t in range(passes):
            if t:
                k = max(1, N * (T - t) // T)
                masked = sorted(range(N), key=lambda i: (p[i], i))[:k]
            else:
                masked = list(range(N))
            for i in masked:
                y[i] = MASK
            everywhere = torch.ones(1, N, dtype=torch.bool)
            logits, _ = net(torch.tensor([src_ids]), torch.tensor([y]), everywhere)
            probabilities = logits.softmax(dim=1)
            for i in masked:
                y[i] = int(probabilities[i].argmax())
                p[i] = float(probabilities[i].max())
        found.append((y, sum(map(math.log, p)) / N))
    net.float()
    return sorted(found, key=lambda candidate: -candidate[1])


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


def test_fast_goes_on_with_the_best_candidate_and_stops_where_nothing_changes(backend, monkeypatch):
    net, rows, T, beam = network(), sources(6), 10, 4
    called = []
    decode = MaskPredictTransformer.decode

    def counting(self, ids, is_masked, memory):
        called.append(tuple(ids.shape))
        return decode(self, ids, is_masked, memory)

    # With patience without end: after two passes it is the plain method for the best candidate.
    monkeypatch.setattr(algorithm, "PATIENCE", T)
    monkeypatch.setattr(MaskPredictTransformer, "decode", counting)
    fast = backend.translate(net, rows, DecodeConfig(T, beam), fast=True)
    assert [n for n, _ in called] == [24, 24] + [6] * 8
    plain = backend.translate(net, rows, DecodeConfig(T, beam), n_best=beam)
    after_two = [max(plainly(net, row, 2, beam, T), key=lambda c: c[1]) for row in rows]
    for [found], candidates, (ids, _) in zip(fast, plain, after_two, strict=True):
        [same] = [h for h in candidates if h.length == len(ids)]
        assert (found.text, found.steps) == (same.text, T)
        assert found.score == pytest.approx(same.score, abs=1e-4)

    # A network that says the same whatever it sees changes nothing after its first pass.
    monkeypatch.setattr(algorithm, "PATIENCE", 3)
    table = torch.randn(LONGEST, V, generator=generator("table"))

    def always(self, ids, is_masked, memory):
        called.append(tuple(ids.shape))
        return table.expand(len(ids), -1, -1)[:, : ids.shape[1]][is_masked]

    monkeypatch.setattr(MaskPredictTransformer, "decode", always)
    called.clear()
    made = backend.translate(net, rows, DecodeConfig(T, beam), fast=True)
    assert [n for n, _ in called] == [24, 24] + [6] * 3
    assert [h.steps for [h] in made] == [5] * 6
    assert [h.steps for [h] in backend.translate(net, rows, DecodeConfig(1, 2), fast=True)] == [
        1
    ] * 6


# --- the decoding loop


def table_model(seed, rows, L):
    """A model_fn that answers from a table, whatever it sees, and the table: [rows, L, V]."""
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
    model_fn, table = table_model(0, 3, 6)
    N = torch.tensor([6, 3, 4])
    ids, log_p = mask_predict(model_fn, N, 1, MASK, PAD)
    is_token = torch.arange(6) < N[:, None]
    assert torch.equal(ids[is_token], table.argmax(-1)[is_token])
    assert torch.equal(ids[~is_token], torch.full_like(ids[~is_token], PAD))
    torch.testing.assert_close(log_p[is_token], table.log_softmax(-1).amax(-1)[is_token])
    assert (log_p[~is_token] == 0).all()


def test_kept_tokens_keep_token_and_probability_and_pads_never_change():
    g = generator("loop")
    N, T, seen = torch.tensor([9, 4, 7, 2]), 5, []

    def model_fn(ids, is_masked):
        assert (ids[is_masked] == MASK).all() and (ids[~is_masked] != MASK).all()
        return 4 * torch.randn(int(is_masked.sum()), V - 5, generator=g).repeat_interleave(1, 0)

    def on_step(t, ids, p, is_masked):
        seen.append((t, ids.clone(), p.clone(), is_masked.clone()))

    final, log_p = mask_predict(
        lambda ids, m: torch.nn.functional.pad(model_fn(ids, m), (5, 0), value=-9), N, T, MASK, PAD,
        on_step,
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
    chosen = least(values, torch.tensor([2, 3]))
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


# --- the network


def test_length_0_is_impossible_and_the_length_token_is_gone():
    net = network()
    memory = net.encode(torch.tensor([[7, 8, 9]]))
    assert memory.length_logits.shape == (1, LONGEST + 1)
    assert memory.length_logits[0, 0] == -torch.inf and memory.length_logits[0, 1:].isfinite().all()
    assert [keys.shape for keys, _ in memory.keys_values] == [(1, 4, 3, 4)] * 2
    assert memory.bias.shape == (1, 1, 1, 3)


def test_padding_of_sources_and_targets_changes_nothing():
    net = network()
    src_ids, ids = torch.tensor([[7, 8, 9]]), torch.tensor([[MASK, 6, MASK]])
    is_masked = ids == MASK
    logits, lengths = net(src_ids, ids, is_masked)
    wide = [torch.cat([x, torch.full((1, 4), PAD)], dim=1) for x in (src_ids, ids)]
    padded_logits, padded_lengths = net(*wide, wide[1] == MASK)
    torch.testing.assert_close(padded_logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(padded_lengths, lengths, rtol=1e-4, atol=1e-4)


def test_every_position_of_the_decoder_sees_every_other():
    net = network()
    ids = torch.tensor([[6, MASK, 7]])
    is_masked = torch.tensor([[False, True, False]])
    logits, _ = net(torch.tensor([[7, 8]]), ids, is_masked)
    for position in (0, 2):
        other = ids.clone()
        other[0, position] = 9
        assert not torch.allclose(net(torch.tensor([[7, 8]]), other, is_masked)[0], logits)
    assert not torch.allclose(net(torch.tensor([[7, 9]]), ids, is_masked)[0], logits)


def test_embeddings_are_tied_and_a_vocabulary_of_sources_is_its_own():
    joint, separate = network(), network(src_size=31)
    names = {name for name, p in joint.named_parameters() if p.shape == (V, 16)}
    assert names == {"embedding.weight"}
    assert separate.src_embedding.weight.shape == (31, 16)
    assert separate.encode(torch.tensor([[30, 29]])).bias.shape == (1, 1, 1, 2)


def test_the_paper_s_base_model_has_its_size():
    with torch.device("meta"):
        net = MaskPredictTransformer(ModelConfig(), 32_768, 0, 256, (0, 0))
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(61e6, rel=0.02)


# --- training


def test_masks_are_uniform_from_1_to_n_and_at_random_places():
    N = torch.full((4000,), 5)
    rng = BatchRng([generator("masks", i) for i in range(4000)])
    is_masked = masked_positions(N, 7, rng.uniform(), rng.uniform(9))
    assert not is_masked[:, 5:].any(), "no padding"
    counts = is_masked.sum(1).bincount(minlength=6)
    assert counts[0] == 0 and (counts[1:] / 4000 - 0.2).abs().max() < 0.03
    assert (is_masked[:, :5].float().mean(0) - 0.6).abs().max() < 0.03
    extreme = torch.tensor([0.0, 1 - 2**-24])
    few, all_ = masked_positions(torch.tensor([5, 5]), 5, extreme, rng.uniform(9)[:2])
    assert (few.sum(), all_.sum()) == (1, 5)


def test_the_loss_is_that_of_the_masked_tokens_smoothed_and_of_the_length():
    g = generator("loss")
    ids = torch.randint(5, V, (3, 6), generator=g)
    is_masked = torch.rand(3, 6, generator=g) < 0.5
    logits = torch.randn(int(is_masked.sum()), V, generator=g)
    length_logits, N = torch.randn(3, 13, generator=g), torch.tensor([6, 4, 5])
    found = training_loss(logits, length_logits, ids, is_masked, N, smoothing=0.1)
    log_p = logits.log_softmax(-1)
    nll = -log_p[range(len(log_p)), ids[is_masked]]
    smooth = 0.9 * nll - 0.1 / V * log_p.sum(-1)
    length = -length_logits.log_softmax(-1)[range(3), N]
    assert found["tokens"].mean().item() == pytest.approx(smooth.mean().item(), rel=1e-5)
    assert found["length"].mean().item() == pytest.approx(length.sum().item() / len(nll), rel=1e-5)
    assert found["tokens"].shape == found["length"].shape == (3,)


@pytest.fixture(scope="module")
def scenes():
    """A backend of the captions with a joint vocabulary of words."""
    pairs = [SceneTexts("train", "en-zh")[i] for i in range(200)]
    tokenizer = train("words", [t for pair in pairs for t in (pair.source, pair.text)])
    return Backend(Config(data=PairData(length=30), model=SMALL), tokenizer)


def examples(backend, n):
    source, _ = backend.sources()
    return [backend.prepare(source, i, generator("x", i), True) for i in range(n)]


def test_targets_end_and_do_not_begin_and_their_length_counts_the_end(scenes):
    source, _ = scenes.sources()
    eos = scenes.tokenizer.special("eos")
    for i, example in enumerate(examples(scenes, 5)):
        assert example.tgt_ids == [*scenes.tokenizer.encode(source[i].text), eos]
        assert example.src_ids == [*scenes.tokenizer.encode(source[i].source), eos]
        assert example.tgt_ids == [*scenes.tokenizer.encode(source[i].text), eos]
    batch = scenes.collate(examples(scenes, 5), BatchRng([generator("x", i) for i in range(5)]))
    assert batch["N"].tolist() == [len(example.tgt_ids) for example in examples(scenes, 5)]
    text = source[0].text
    assert scenes.target_length(text) == batch["N"][0] == len(text) + 1, "characters and the end"


def test_draws_do_not_depend_on_the_batch(scenes):
    def rngs(indices):
        return BatchRng([generator("x", i) for i in indices])

    ten = examples(scenes, 10)
    batch = scenes.collate(ten, rngs(range(10)))
    shortest = int(batch["N"].argmin())
    alone = scenes.collate([ten[shortest]], rngs([shortest]))
    L = alone["is_masked"].shape[1]
    assert L < batch["is_masked"].shape[1]
    assert torch.equal(alone["is_masked"][0], batch["is_masked"][shortest, :L])


def test_a_row_s_loss_is_of_its_own_tokens(scenes):
    torch.manual_seed(0)
    net = scenes.network().eval()
    ten = examples(scenes, 10)
    batch = scenes.collate(ten, BatchRng([generator("x", i) for i in range(10)]))
    terms = scenes.loss(net, batch)
    share = 10 / batch["is_masked"].sum()
    for i in (0, 7):
        alone = scenes.collate([ten[i]], BatchRng([generator("x", i)]))
        mine = scenes.loss(net, alone)
        for name in ("tokens", "length"):
            expected = mine[name] * alone["is_masked"].sum() * share
            torch.testing.assert_close(terms[name][i : i + 1], expected, rtol=1e-4, atol=1e-5)
    # Before training every token is about as likely as another.
    assert terms["tokens"].mean().item() == pytest.approx(math.log(scenes.tokenizer.size), rel=0.05)


def test_sides_of_their_own_vocabularies(tmp_path):
    pairs = [SceneTexts("train", "en-zh")[i] for i in range(50)]
    sides = Sides(
        train("words", [p.source for p in pairs]), train("words", [p.text for p in pairs])
    )
    backend = Backend(Config(data=PairData(length=30), model=SMALL), sides)
    net = backend.network()
    assert net.src_embedding.weight.shape[0] == sides.source.size
    assert net.embedding.weight.shape[0] == sides.target.size != sides.source.size
    [example] = examples(backend, 1)
    assert sides.source.decode(example.src_ids) == pairs[0].source
    assert sides.decode(example.tgt_ids) == pairs[0].text
    [[best]] = backend.translate(net, [example.src_ids], DecodeConfig(2, 2))
    assert isinstance(best.text, str)


def test_what_does_not_fit_is_told():
    tokenizer = train("words", ["a b c"])
    data = PairData(length=4, spec=("a,b",))
    backend = Backend(Config(data=data, model=SMALL, sample=DecodeConfig(4, 4)), tokenizer)
    assert len(backend.source_ids("a b c")) == 4
    with pytest.raises(BadDataError, match="5 tokens"):
        backend.source_ids("a b c a")

    class One:
        def __getitem__(self, index):
            return SceneTexts("train", "en-zh")[0]

    with pytest.raises(TooLong, match="data.length is 4"):
        backend.prepare(One(), 0, generator("x"), True)
    with pytest.raises(UsageError, match="single texts"):
        Backend(Config(data=PairData(spec=("a.txt",))), tokenizer)
    with pytest.raises(UsageError, match="does not divide"):
        ModelConfig(hidden=10, heads=4)
    with pytest.raises(UsageError, match="length_beam 5 is more than"):
        Config(data=PairData(length=4))


def test_rows_are_padded_on_the_right():
    assert padded([[1, 2], [3]], 0).tolist() == [[1, 2], [3, 0]]
