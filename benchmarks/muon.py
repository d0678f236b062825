"""One step of our Muon beside torch's, over the matrices of the network of ddpm-scenes.

torch's iterates in bf16, which a CPU without it emulates: there its figure says little, and that
of the iteration on whole matrices, in fp32 as ours, is the one to compare with.

python benchmarks/muon.py
"""

from functools import partial

import torch
from results import append
from timing import alternate

from gentool.checkpoint.load import find_checkpoint, load_checkpoint
from gentool.training.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonalised

REPEATS = 15


def main() -> None:
    shapes = matrices()
    gradients = [torch.randn(shape) for shape in shapes]
    sides = {}
    for name, optimizer in (
        ("torch, bf16", torch.optim.Muon),
        ("gentool", partial(Muon, others=[])),
    ):
        parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        sides[name] = optimizer(parameters, lr=1e-3).step
    sides["the iteration alone, on whole matrices"] = lambda: [whole(g) for g in gradients]
    sides["the iteration alone, gentool"] = lambda: [orthogonalised(g[None]) for g in gradients]
    seconds = alternate(sides, REPEATS)
    facts = {"threads": torch.get_num_threads(), "repeats": REPEATS, "matrices": len(shapes)}
    figures = [
        {"metric": f"seconds[{name}]", "value": round(value, 4)} | facts
        for name, value in seconds.items()
    ]
    append("muon", "python benchmarks/muon.py", figures)
    print(*figures, sep="\n")


def whole(G: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz as it is usually written, each iteration over all rows and columns."""
    a, b, c = COEFFICIENTS
    X = G / G.norm()
    X = X if G.shape[0] <= G.shape[1] else X.mT
    for _ in range(ITERATIONS):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X


def matrices() -> list[torch.Size]:
    """The shapes of all that Muon is given of the network, kernels as matrices."""
    network = load_checkpoint(find_checkpoint(None, "ddpm"), "ddpm").network
    tables = {m.weight for m in network.modules() if isinstance(m, torch.nn.Embedding)}
    return [p.flatten(1).shape for p in network.parameters() if p.dim() > 1 and p not in tables]


if __name__ == "__main__":
    main()
