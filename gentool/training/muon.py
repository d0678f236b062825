"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum, orthogonalised.

torch.optim.Muon takes matrices alone and needs torch 2.9; here kernels of convolutions are
matrices too, and what is none is left to Adam, in the same optimizer.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adam import adam

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that pulls singular values towards 1
ITERATIONS = 5
EPS = 1e-8  # of Adam


class Muon(Optimizer):
    """Muon for matrices [rows, ...] and Adam for the parameters that are none, at one rate.

    The step of a matrix is scaled by 0.2 sqrt(max(rows, columns)), so that its elements move about
    as far as under Adam (Liu et al. 2025, Eq. 4) and one learning rate serves both.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        """betas: Adam's; weight_decay: decoupled, of matrices alone."""
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "muon": True},
            {"params": list(others), "muon": False},
        ]
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters and group["muon"]:
                self._muon(parameters, group["lr"], group["weight_decay"])
            elif parameters:
                self._adam(parameters, group["lr"], *group["betas"])

    def _muon(self, parameters: list[Tensor], lr: float, weight_decay: float) -> None:
        alike = defaultdict(list)  # matrices of one smaller side go through the iteration together
        for parameter in parameters:
            alike[min(parameter.flatten(1).shape)].append(parameter)
        for members in alike.values():
            grads = _grads(members)
            momenta = self._averages("momentum", members)
            torch._foreach_lerp_(momenta, grads, 1 - MOMENTUM)
            updates = torch._foreach_lerp(grads, momenta, MOMENTUM)  # Nesterov's
            steps = orthogonalised([update.flatten(1) for update in updates])
            torch._foreach_mul_(members, 1 - lr * weight_decay)
            for parameter, step in zip(members, steps, strict=True):
                scale = 0.2 * max(step.shape) ** 0.5
                parameter.sub_(step.view_as(parameter), alpha=lr * scale)

    def _adam(self, parameters: list[Tensor], lr: float, beta1: float, beta2: float) -> None:
        for parameter in parameters:
            if "step" not in self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros((), device=parameter.device)
        adam(
            parameters,
            _grads(parameters),
            self._averages("exp_avg", parameters),
            self._averages("exp_avg_sq", parameters),
            [],
            [self.state[parameter]["step"] for parameter in parameters],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=0.0,
            eps=EPS,
            maximize=False,
        )

    def _averages(self, name: str, parameters: list[Tensor]) -> list[Tensor]:
        """The running average `name` of each parameter, zeros at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


def _grads(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def orthogonalised(matrices: list[Tensor]) -> list[Tensor]:
    """U V^T, roughly, of each G = U S V^T, [rows, columns], the smaller of which is n for all.

    Newton-Schulz, five iterations of X <- (a + b X X^T + c (X X^T)^2) X. Every factor is a
    polynomial of the first X X^T, [n, n], so they commute, and X itself is met only at the
    beginning and the end.
    """
    alike = defaultdict(list)
    for index, G in enumerate(matrices):
        alike[G.shape].append(index)
    stacks = [torch.stack([matrices[i] for i in members]) for members in alike.values()]
    stacks = [G if G.shape[1] <= G.shape[2] else G.mT for G in stacks]  # [N, n, m]
    stacks = [G / (G.norm(dim=(1, 2), keepdim=True) + 1e-7) for G in stacks]
    products = _product(torch.cat([X @ X.mT for X in stacks])).split([len(X) for X in stacks])
    steps = list(matrices)
    for (shape, members), X, P in zip(alike.items(), stacks, products, strict=True):
        wide = P @ X
        for i, step in zip(members, wide if shape[0] <= shape[1] else wide.mT, strict=True):
            steps[i] = step
    return steps


def _product(A: Tensor) -> Tensor:
    """The product of all factors Q = a + b A + c A^2, where A <- Q A Q in between: [N, n, n]."""
    a, b, c = COEFFICIENTS

    def factor(A: Tensor) -> Tensor:
        Q = torch.baddbmm(b * A, A, A, alpha=c)
        Q.diagonal(dim1=1, dim2=2).add_(a)
        return Q

    P = Q = factor(A)
    for _ in range(ITERATIONS - 1):
        A = Q @ A @ Q
        Q = factor(A)
        P = Q @ P
    return P
