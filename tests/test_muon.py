"""Muon: what it does to a matrix, what it leaves to Adam, and that a run with it resumes."""

import pytest
import torch
from torch import nn

from gentool.training.config import TrainConfig
from gentool.training.muon import Muon, orthogonalised
from gentool.training.optimizer import load_optimizer, make_optimizer


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(model: nn.Module, seed: int) -> None:
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = normal(*parameter.shape, seed=100 * seed + i)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Embedding(5, 8))


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_singular_values_come_near_1_and_vectors_stay(shape: tuple[int, int]) -> None:
    G = normal(*shape)
    (step,) = orthogonalised([1000 * G])
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    inner = U.T @ step @ Vh.T  # diagonal if the singular vectors are those of G
    assert inner.diagonal().min() > 0.3 and inner.diagonal().max() < 1.3
    assert (inner - inner.diagonal().diag()).abs().max() < 1e-4


def test_the_smaller_side_alone_gives_the_iteration_of_the_whole_matrix() -> None:
    G = normal(12, 90) * torch.logspace(0, -3, 90)  # far from orthogonal
    X = G.double() / G.double().norm()
    for _ in range(5):
        A = X @ X.mT
        X = 3.4445 * X - 4.7750 * A @ X + 2.0315 * A @ A @ X
    torch.testing.assert_close(orthogonalised([G])[0].double(), X, atol=1e-4, rtol=0)


def test_matrices_that_go_through_together_do_not_mix() -> None:
    shapes = [(6, 10), (14, 6), (6, 10), (6, 6), (14, 6)]
    matrices = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    together = orthogonalised(matrices)
    alone = [step for matrix in matrices for step in orthogonalised([matrix])]
    torch.testing.assert_close(together, alone)


def test_a_kernel_moves_as_a_matrix_by_the_momentum_of_its_gradients() -> None:
    kernel = nn.Parameter(normal(4, 3, 3, 3))
    before = kernel.detach().clone()
    optimizer = Muon([kernel], [], lr=0.1, weight_decay=0.5)
    first, second = normal(4, 3, 3, 3, seed=1), normal(4, 3, 3, 3, seed=2)
    kernel.grad = first
    optimizer.step()
    after_one = kernel.detach().clone()
    kernel.grad = second
    optimizer.step()
    # By hand: m_1 = 0.05 g_1, m_2 = 0.95 m_1 + 0.05 g_2; Nesterov's is 0.05 g + 0.95 m.
    m_1 = 0.05 * first
    m_2 = 0.95 * m_1 + 0.05 * second
    for start, gradient, momentum, end in (
        (before, first, m_1, after_one),
        (after_one, second, m_2, kernel),
    ):
        nesterov = (0.05 * gradient + 0.95 * momentum).flatten(1)
        step = orthogonalised([nesterov])[0].view(4, 3, 3, 3)
        expected = start * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 27**0.5 * step
        torch.testing.assert_close(end.detach(), expected)


def test_vectors_and_embeddings_are_left_to_adam() -> None:
    ours, theirs = model(), model()
    optimizer = make_optimizer(ours, TrainConfig(optimizer="muon", learning_rate=0.01, beta2=0.9))
    names = ("1.weight", "1.bias", "0.bias", "2.weight")
    rest = [p for n, p in theirs.named_parameters() if n in names]
    adam = torch.optim.Adam(rest, lr=0.01, betas=(0.9, 0.9))
    for seed in range(3):
        with_gradients(ours, seed)
        with_gradients(theirs, seed)
        optimizer.step()
        adam.step()
    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for name in names:
        torch.testing.assert_close(mine[name], other[name])
    assert not torch.equal(mine["0.weight"], other["0.weight"])


def test_its_state_travels() -> None:
    train = TrainConfig(optimizer="muon", learning_rate=0.01)
    whole, cut = model(), model()
    first, second = make_optimizer(whole, train), make_optimizer(cut, train)
    for seed in range(2):
        for network, optimizer in ((whole, first), (cut, second)):
            with_gradients(network, seed)
            optimizer.step()
    saved = {
        f"{i}.{name}": tensor.clone()
        for i, slot in second.state_dict()["state"].items()
        for name, tensor in slot.items()
    }
    resumed = make_optimizer(cut, train)
    load_optimizer(resumed, saved)
    for network, optimizer in ((whole, first), (cut, resumed)):
        with_gradients(network, 2)
        optimizer.step()
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(a, b)
