"""Optimizer, learning rate and weight average."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from gentool.training.config import TrainConfig
from gentool.training.muon import Muon


def make_optimizer(model: nn.Module, train: TrainConfig) -> Optimizer:
    """Adam or AdamW over all parameters, in one fused kernel per step, or Muon."""
    decay = 0.0 if train.optimizer == "adam" else train.weight_decay
    betas = (0.9, train.beta2)
    if train.optimizer == "muon":
        # A row of a table of embeddings is a vector of its own, not a part of a matrix. (Positions
        # that are bare parameters are orthogonalised: the weights that ship were trained so.)
        tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
        matrices = [p for p in model.parameters() if p.dim() > 1 and p not in tables]
        others = [p for p in model.parameters() if p.dim() <= 1 or p in tables]
        return Muon(matrices, others, train.learning_rate, betas, decay)
    cls = {"adam": Adam, "adamw": AdamW}[train.optimizer]
    return cls(
        model.parameters(), lr=train.learning_rate, betas=betas, weight_decay=decay, fused=True
    )


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put `tensors` ("3.exp_avg": …) back as the optimizer's state."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        if tensor.dim():  # the fused kernel walks memory, so the layout must be the parameter's
            tensor = torch.empty_like(parameter).copy_(tensor)
        else:  # the number of steps, which the fused kernel counts where the parameter is
            tensor = tensor.to(parameter.device)
        slots.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def learning_rate(step: int, train: TrainConfig) -> float:
    """The rate of the update after `step` updates: linear warm-up, then the schedule, which ends at
    0 (cosine, linear) or falls for ever (inverse_sqrt, from the end of the warm-up on)."""
    warmup = min(1.0, (step + 1) / train.warmup_steps) if train.warmup_steps else 1.0
    done = step / train.steps
    decay = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "inverse_sqrt": min(1.0, math.sqrt(max(train.warmup_steps, 1) / (step + 1))),
    }[train.schedule]
    return train.learning_rate * warmup * decay


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, n: int, decay: float) -> None:
    """theta_bar <- m theta_bar + (1 - m) theta, m = min(decay, (1 + n) / (10 + n)), after n updates
    of the average; buffers as they are.

    The first update copies. The warm-up forgets the initial weights in short runs, which a
    constant 0.9999 would keep. (torch's AveragedModel would have a GPU waited for.)
    """
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(model.parameters())
    if n:
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + n) / (10 + n)))
    else:
        torch._foreach_copy_(averages, weights)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
