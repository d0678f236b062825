"""Attention written out, as a CPU trains in bf16, beside torch's."""

import pytest
import torch
import torch.nn.functional as F
from tensors import normal
from torch import Tensor, nn

from gentool.nn.attention import EncoderLayer, attend

B, HEADS, L, S, D = 2, 3, 5, 7, 8
FILLED_UP = 26  # so many keys are filled up to a whole register, S are not


def masks(S: int) -> list[Tensor | None]:
    seen = torch.tensor([[True] * S, [True] * 4 + [False] * (S - 4)])[:, None, None]  # [B, 1, 1, S]
    return [None, seen, torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)]


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["none", "bool", "float"])
@pytest.mark.parametrize("S", [S, FILLED_UP])
def test_written_out_it_is_torchs_forwards_and_backwards(S, kind):
    mask = masks(S)[kind]
    exact = [normal(B, HEADS, n, D, seed=n).requires_grad_() for n in (L, S, S)]
    written = [x.detach().bfloat16().requires_grad_() for x in exact]
    expected = F.scaled_dot_product_attention(
        *exact, None if mask is None else mask if mask.dtype == torch.bool else mask.double()
    )
    found = attend(*written, mask if mask is None or mask.dtype == torch.bool else mask.bfloat16())
    assert found.dtype == torch.bfloat16
    weights = normal(*expected.shape, seed=9)
    for out, upstream in ((expected, weights), (found, weights.bfloat16())):
        out.backward(upstream)
    torch.testing.assert_close(found.double(), expected, rtol=0.03, atol=0.03)
    for few, many in zip(written, exact, strict=True):
        torch.testing.assert_close(few.grad.double(), many.grad, rtol=0.05, atol=0.05)


def test_dropout_of_what_is_written_out_keeps_the_mean():
    q, k, v = (torch.ones(1, 1, 64, D, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    torch.manual_seed(0)
    out = torch.stack([attend(q, k, v, dropout=0.5) for _ in range(50)]).float()
    assert out.std() > 0.05
    assert out.mean().item() == pytest.approx(1, abs=0.02)


def test_without_a_gradient_or_in_fp32_it_is_torchs_to_the_bit():
    q, k, v = (normal(B, HEADS, S, D, seed=seed).float().requires_grad_() for seed in range(3))
    assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))
    q, k, v = (x.detach().bfloat16() for x in (q, k, v))
    assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_layer_is_torchs(norm_first, padded, training):
    options = {"dropout": 0.0, "norm_first": norm_first}
    ours = EncoderLayer(16, 2, **options).train(training)
    theirs = nn.TransformerEncoderLayer(16, 2, 64, activation="gelu", batch_first=True, **options)
    theirs.train(training).load_state_dict(ours.state_dict())
    h = normal(B, L, 16).float()
    is_padding = torch.tensor([[False] * L, [False] * 3 + [True] * 2]) if padded else None
    expected = theirs(h, src_key_padding_mask=is_padding)
    found = ours(h, is_padding)
    kept = slice(None) if is_padding is None else ~is_padding
    torch.testing.assert_close(found[kept], expected[kept], rtol=1e-5, atol=1e-5)


def test_the_layer_drops_out_as_torchs_does():
    ours = EncoderLayer(16, 2, dropout=0.5)
    theirs = nn.TransformerEncoderLayer(16, 2, 64, 0.5, activation="gelu", batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    h = normal(64, L, 16).float()
    spread = []
    for layer in (ours, theirs):
        torch.manual_seed(0)
        found = torch.stack([layer(h) for _ in range(100)])
        spread.append(found.std(dim=0).mean().item())
    assert spread[0] == pytest.approx(spread[1], rel=0.02)
