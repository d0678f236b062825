"""mvtm's transformer: what it sees, what it says, and that the defaults are the paper's."""

import math

import pytest
import torch

from gentool.backends.mvtm import Config, ModelConfig
from gentool.backends.mvtm.algorithm import training_loss
from gentool.backends.mvtm.network import MaskedTransformer
from gentool.nn.text import TextEncoder
from gentool.rng import torch_seed
from gentool.settings import build

K, MASK = 7, 9  # two more ids lie between: classes, say


def network(**model: object) -> MaskedTransformer:
    settings = {"hidden": 32, "layers": 2, "heads": 4, "feed_forward": 64, "dropout": 0.0}
    config = build(ModelConfig, settings | model)
    with torch_seed("test"):
        text = TextEncoder(config.text, 10) if config.text.encoder != "none" else None
        return MaskedTransformer(config, MASK + 1, 17, text).eval()


def test_at_first_it_knows_nothing():
    """A loss of ln V, the paper's too: 7.61 for its vocabulary of 2025."""
    with torch_seed("test"):
        model = MaskedTransformer(build(ModelConfig, {"layers": 1, "hidden": 64}), 2025, 257)
    ids = torch.randint(2024, (2, 256), generator=torch.Generator().manual_seed(0))
    loss = training_loss(model.eval(), ids, torch.ones(2, 256, dtype=torch.bool), 2024)
    assert loss.mean().item() == pytest.approx(math.log(2025), abs=0.15)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_every_token_sees_every_other(pre_norm):
    model = network(pre_norm=pre_norm)
    ids = torch.randint(K, (1, 16), generator=torch.Generator().manual_seed(0))
    is_masked = torch.zeros(1, 16, dtype=torch.bool)
    is_masked[0, 8] = True
    out = model(ids, is_masked)
    assert out.shape == (1, MASK + 1)
    for place in (0, 15):
        other = ids.clone()
        other[0, place] = (other[0, place] + 1) % K
        assert not torch.allclose(model(other, is_masked), out)


def test_logits_are_of_masked_positions_alone_and_the_class_stands_before():
    model = network()
    ids = torch.randint(K, (2, 16), generator=torch.Generator().manual_seed(0))
    first = torch.tensor([[K], [K + 1]])
    everywhere = model(ids, torch.ones(2, 16, dtype=torch.bool), first).view(2, 16, -1)
    is_masked = torch.zeros(2, 16, dtype=torch.bool)
    is_masked[0, 3], is_masked[1, 5] = True, True
    assert torch.allclose(
        model(ids, is_masked, first), torch.stack([everywhere[0, 3], everywhere[1, 5]]), atol=1e-6
    )
    for other in (first.flip(0), None):
        assert not torch.allclose(model(ids, is_masked, other), model(ids, is_masked, first))


def test_captions_stand_before_without_their_padding():
    model = network(text={"encoder": "transformer", "length": 6, "width": 16, "heads": 2})
    ids = torch.randint(K, (2, 16), generator=torch.Generator().manual_seed(0))
    is_masked = torch.ones(2, 16, dtype=torch.bool)
    tokens = torch.tensor([[1, 4, 2, 0, 0, 0], [1, 4, 5, 6, 2, 0]])
    mask = tokens > 0
    out = model(ids, is_masked, text=(tokens, mask)).view(2, 16, -1)
    encoded = model.text(tokens, mask)  # once, for many steps
    assert torch.equal(model(ids, is_masked, text=encoded).view(2, 16, -1), out)
    alone = model(ids[:1], is_masked[:1], text=(tokens[:1], mask[:1]))
    assert torch.allclose(alone, out[0], atol=1e-6)  # whatever captions are beside it
    tokens[0, 4] = 5  # padding
    assert torch.allclose(
        model(ids, is_masked, text=(tokens, mask)).view(2, 16, -1), out, atol=1e-6
    )
    tokens[0, 1] = 5
    other = model(ids, is_masked, text=(tokens, mask)).view(2, 16, -1)
    assert not torch.allclose(other[0], out[0]) and torch.allclose(other[1], out[1], atol=1e-6)


def test_the_default_network_has_the_papers_size():
    with torch.device("meta"):
        model = MaskedTransformer(Config().model, 2025, 257)
    assert 170e6 < sum(p.numel() for p in model.parameters()) < 178e6
