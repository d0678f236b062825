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
            if group["muon"]:
                self._muon(parameters, group["lr"], group["weight_decay"])
            else:
                for parameter in parameters:
                    self._adam(parameter, group["lr"], *group["betas"])

    def _muon(self, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        alike = defaultdict(list)  # matrices of one shape go through the iteration together
        for parameter in parameters:
            alike[parameter.flatten(1).shape].append(parameter)
        for (rows, columns), members in alike.items():
            updates = []
            for parameter in members:
                assert parameter.grad is not None
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
                updates.append(parameter.grad.lerp(momentum, MOMENTUM).flatten(1))  # Nesterov's
            steps = orthogonalised(torch.stack(updates))
            for parameter, step in zip(members, steps, strict=True):
                parameter.mul_(1 - lr * weight_decay)
                parameter.sub_(step.view_as(parameter), alpha=lr * 0.2 * max(rows, columns) ** 0.5)

    def _adam(self, parameter: nn.Parameter, lr: float, beta1: float, beta2: float) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        n = float(state["step"])
        mean = state["exp_avg"].lerp_(parameter.grad, 1 - beta1)
        square = state["exp_avg_sq"].lerp_(parameter.grad.square(), 1 - beta2)
        denominator = (square / (1 - beta2**n)).sqrt_().add_(EPS)
        parameter.addcdiv_(mean, denominator, value=-lr / (1 - beta1**n))


def orthogonalised(G: Tensor) -> Tensor:
    """U V^T, roughly, of each G = U S V^T: [N, rows, columns]. Newton-Schulz, five iterations.

    X <- (a + b X X^T + c (X X^T)^2) X, all of it on the smaller side: every factor is a polynomial
    of the first X X^T, so they commute, and X itself is met only at the beginning and the end.
    """
    a, b, c = COEFFICIENTS
    wide = G.shape[1] <= G.shape[2]
    X = G if wide else G.mT
    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)
    A = X @ X.mT  # [N, n, n], n the smaller of rows and columns
    P = None
    for i in range(ITERATIONS):
        Q = torch.baddbmm(b * A, A, A, alpha=c)
        Q.diagonal(dim1=1, dim2=2).add_(a)
        P = Q if P is None else Q @ P
        if i < ITERATIONS - 1:
            A = Q @ A @ Q
    X = P @ X
    return X if wide else X.mT
