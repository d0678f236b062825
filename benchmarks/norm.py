"""GroupNorm in bf16 on a CPU: ours beside torch's, at the shapes of our networks.

python benchmarks/norm.py
"""

from collections.abc import Callable

import torch
from results import append
from timing import alternate
from torch import nn

from gentool.nn.norm import GroupNorm

SHAPES = {  # pictures, channels, height and width, groups
    "ddpm-scenes, 8 x 8 positions": (32, 80, 8, 16),
    "ddpm-scenes, 4 x 4 positions": (32, 96, 4, 16),
    "ddpm-cifar10, 32 x 32": (16, 128, 32, 32),
    "ddpm-cifar10, 16 x 16": (16, 256, 16, 32),
    "ddpm-cifar10, 8 x 8": (16, 256, 8, 32),
}
REPEATS = 15


def main() -> None:
    figures = []
    for name, (B, C, side, groups) in SHAPES.items():
        torch.manual_seed(0)
        x = torch.randn(B, C, side, side, dtype=torch.bfloat16)
        x = x.to(memory_format=torch.channels_last)
        layers = {"torch": nn.GroupNorm(groups, C), "gentool": GroupNorm(groups, C)}
        for way, passes in (("drawing", forward), ("training", both)):
            sides = {side: passes(layer, x) for side, layer in layers.items()}
            seconds = alternate(sides, REPEATS)
            ratio = round(seconds["torch"] / seconds["gentool"], 2)
            figures.append(
                {"metric": f"speed-up[{name}, {way}]", "value": ratio}
                | {"milliseconds": round(1e3 * seconds["gentool"], 2), "batch": B, "channels": C}
                | {"groups": groups, "repeats": REPEATS, "seed": 0}
                | {"threads": torch.get_num_threads()}
            )
    append("norm", "python benchmarks/norm.py", figures)
    print(*figures, sep="\n")


def forward(layer: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    """As in drawing."""
    return torch.no_grad()(lambda: layer(x))


def both(layer: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Forwards and backwards."""
    x = x.detach().requires_grad_()

    def run() -> None:
        out = layer(x)
        out.backward(torch.ones_like(out))

    return run


main()
