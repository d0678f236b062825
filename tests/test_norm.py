"""GroupNorm in bf16 by way of fp32, as a CPU computes it, beside torch's."""

import pytest
import torch
import torch.nn.functional as F
from tensors import normal
from torch import nn

from gentool.nn.norm import GroupNorm

B, C, GROUPS = 2, 8, 4


def pair() -> tuple[GroupNorm, nn.GroupNorm]:
    ours, theirs = GroupNorm(GROUPS, C, eps=1e-6), nn.GroupNorm(GROUPS, C, eps=1e-6).double()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(normal(C, seed=len(name)))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("side", [4, 32])
def test_it_is_torchs_forwards_and_backwards(side):
    ours, theirs = pair()
    # A mean far from 0 is where statistics in bf16 would show.
    exact = (normal(B, C, side, side) + 8).bfloat16().double().requires_grad_()
    x = exact.detach().bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    found, expected = ours(x), theirs(exact)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    upstream = normal(*expected.shape, seed=9).bfloat16()
    found.backward(upstream)
    expected.backward(upstream.double())
    torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=0.01)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=0.01, atol=0.01)
    for few, many in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(few.grad.double(), many.grad, rtol=1e-4, atol=1e-3)


def test_of_other_tensors_it_is_torchs_to_the_bit():
    ours, _ = pair()
    x = normal(B, C, 4, 4).float()
    for given in (x, x.to(memory_format=torch.channels_last), x.bfloat16()):
        expected = F.group_norm(given, GROUPS, ours.weight, ours.bias, ours.eps)
        assert torch.equal(ours(given), expected)
