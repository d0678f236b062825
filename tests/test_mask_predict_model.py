"""Mask-Predict: the network, and how it is trained: masks, loss, and what the data become."""

import math

import pytest
import torch
from mask_network import LONGEST, MASK, PAD, SMALL, V, network

from gentool.backends.mask_predict import Config, DecodeConfig, ModelConfig
from gentool.backends.mask_predict.algorithm import masked_positions, training_loss
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

# --- the network


def test_length_0_is_impossible_and_the_length_token_is_gone():
    net = network()
    memory = net.encode(torch.tensor([[7, 8, 9]]))
    assert memory.length_logits.shape == (1, LONGEST + 1)
    assert memory.length_logits[0, 0] == -torch.inf and memory.length_logits[0, 1:].isfinite().all()
    assert [keys.shape for keys, _ in memory.keys_values] == [(1, 4, 3, 4)] * 2
    assert memory.bias.shape == (1, 1, 1, 3)


def test_lengths_are_told_apart_in_bf16_too():
    net = network()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        net.lengths.weight[2:] = net.lengths.weight[1] * torch.linspace(1, 1.001, LONGEST)[1:, None]
        scores = net.encode(torch.tensor([[7, 8, 9]])).length_logits[0, 1:]
    assert scores.dtype == torch.float32 and len(scores.unique()) == LONGEST


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

    net = backend.network()
    assert backend.texts(net, ["a b c a"]) == [""], "validation passes over it"
    assert len(backend.texts(net, ["a", "a b c a", "a b"])) == 3

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
