"""Training's attention in bf16 on a CPU: `attend` beside torch's, at the shapes of our networks.

python benchmarks/attention.py
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from results import append
from timing import alternate
from torch import Tensor

from gentool.nn.attention import attend

SHAPES = {  # rows, heads, positions, keys, width of a head
    "mvtm-scenes": (32, 4, 90, 90, 32),
    "mvtm-cifar10": (64, 8, 65, 65, 32),
    "diffusion-lm-e2e-small": (64, 8, 48, 48, 32),
    "diffusion-lm, paper": (64, 12, 64, 64, 64),
    "ddpm, 16 x 16 positions": (16, 4, 256, 256, 64),
    "512 positions": (4, 4, 512, 512, 64),
    "1024 positions, not written out": (2, 4, 1024, 1024, 64),
}
REPEATS = 9


def main() -> None:
    figures = []
    for name, (B, heads, L, S, D) in SHAPES.items():
        torch.manual_seed(0)
        q, k, v = (
            torch.randn(B, heads, n, D, dtype=torch.bfloat16, requires_grad=True) for n in (L, S, S)
        )
        seconds = alternate({"torch": both(F.scaled_dot_product_attention, q, k, v),
                             "attend": both(attend, q, k, v)}, REPEATS)  # fmt: skip
        figures.append(
            {"metric": f"speed-up[{name}]", "value": round(seconds["torch"] / seconds["attend"], 2)}
            | {"milliseconds": round(1e3 * seconds["attend"], 2), "batch": B, "heads": heads}
            | {"positions": L, "keys": S, "head_channels": D, "repeats": REPEATS, "seed": 0}
            | {"threads": torch.get_num_threads()}
        )
    append("attention", "python benchmarks/attention.py", figures)
    print(*figures, sep="\n")


def both(way: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> Callable[[], None]:
    """Forwards and backwards."""

    def run() -> None:
        out = way(q, k, v)
        out.backward(torch.ones_like(out))

    return run


main()
