"""What the best possible network draws by each order and number of steps of mvtm's decoding.

    python benchmarks/orders.py --captions 48 --draws 4

For a scene the exact distribution of every token, given the caption and the tokens that are known,
can be counted: its pictures are few. Decoding with it shows what is lost because several tokens are
drawn at once, each by itself, and not because a network has learnt too little.
"""

import argparse
from itertools import product

import numpy as np
import torch
from results import append
from torch import Tensor

from gentool.backends.mvtm.algorithm import decode
from gentool.data.scenes import Layout, Scene, Scenes, render
from gentool.data.scenes.world import MAX_JITTER, cell_choices
from gentool.rng import BatchRng

N, PATCH = 64, 4
# Each order at the temperature at which it does best here.
TEMPERATURE = {"confidence": 1.0, "halton": 0.6, "undecided": 1.0}
CONFLICT = 20.0  # nats for each known token that a picture contradicts: the nearest ones count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--captions", type=int, default=48)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16])
    options = parser.parse_args()
    source = Scenes("test")
    worlds = [pictures(source.tell(i)[0]) for i in range(options.captions)]
    figures = []
    for order, steps in product(TEMPERATURE, options.steps):
        right = [share(grids, order, steps, options.draws) for grids in worlds]
        figure = {"metric": f"exact pictures[{order}, {steps} steps]", "n": options.captions,
                  "value": round(float(np.mean(right)), 4), "draws": options.draws, "seed": 0,
                  "temperature": TEMPERATURE[order]}  # fmt: skip
        print(figure, flush=True)
        figures.append(figure)
    command = f"python benchmarks/orders.py --captions {options.captions} --draws {options.draws}"
    append("mvtm-orders", command, figures)


def pictures(scene: Scene) -> Tensor:
    """Every picture that shows `scene`, as ids of its 4 × 4 patches: [M, N]."""
    jitter = range(-MAX_JITTER, MAX_JITTER + 1)
    layouts = [
        Layout(cells, jitters)
        for cells in cell_choices(scene.place, scene.relation)
        for jitters in product(product(jitter, jitter), repeat=len(cells))
    ]
    pixels = np.stack([render(scene, layout) for layout in layouts])
    patches = pixels.reshape(-1, 8, PATCH, 8, PATCH, 3).swapaxes(2, 3).reshape(-1, PATCH**2 * 3)
    _, ids = np.unique(patches, axis=0, return_inverse=True)
    return torch.from_numpy(ids.reshape(-1, N))


def share(grids: Tensor, order: str, steps: int, draws: int) -> float:
    """How many of `draws` decoded rows are one of `grids` [M, N]."""
    K = int(grids.max()) + 1
    one_hot = torch.nn.functional.one_hot(grids, K).float().flatten(1)  # [M, N K]

    def posterior(y: Tensor, is_masked: Tensor, done: float) -> Tensor:
        against = torch.stack(
            [((row != grids) & ~mask).sum(dim=1) for row, mask in zip(y, is_masked, strict=True)]
        )
        p = (-CONFLICT * against.float()).softmax(dim=1) @ one_hot  # [B, N K]
        return p.view(len(y), N, K)[is_masked].log()

    ids = decode(
        posterior, torch.full((draws, N), K), BatchRng.for_samples(0, range(draws)),
        K=K, mask_id=K, steps=steps, order=order, temperature=TEMPERATURE[order],
    )  # fmt: skip
    return float((ids[:, None] == grids).all(dim=2).any(dim=1).float().mean())


if __name__ == "__main__":
    main()
