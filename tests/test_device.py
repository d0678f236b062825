"""Where to compute, and in which precision."""

import pytest
import torch

from gentool import device
from gentool.device import use_bf16
from gentool.errors import UsageError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("has_bf16", [True, False])
def test_auto_is_bf16_on_a_gpu_that_has_it_and_never_on_a_cpu(has_bf16, monkeypatch):
    monkeypatch.setattr(device, "has_bf16", lambda chosen: has_bf16)
    assert use_bf16("auto", GPU) == has_bf16 and not use_bf16("auto", CPU)
    for chosen in (CPU, GPU):
        assert use_bf16("bf16", chosen) and not use_bf16("fp32", chosen)
    with pytest.raises(UsageError, match="bf61"):
        use_bf16("bf61", CPU)


def test_numbers_below_the_least_normal_one_count_as_0():
    assert float(torch.full((), 1e-39) * 1) == 0 and float(torch.full((), 1e-37) * 1) > 0
