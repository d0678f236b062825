"""Which patches of scenes a tokenizer of pictures tells apart, and what it does not bring back.

    python benchmarks/patches.py vq-patches -t mvtm-scenes

Of the patches that 20,000 training scenes show often: how many have a code of their own. Of held-
out scenes: how many are not read back, and how many of these have a patch that is seldom seen. For
tokenizers whose encoder is local.
"""

import argparse
from collections import Counter

import numpy as np
import torch
from results import append
from torch import Tensor

from gentool.checkpoint.tokenizer import find_tokenizer
from gentool.data.scenes import draw_scene, read_scene, render

OFTEN = 20  # times among the training scenes
TRAINING, HELD_OUT = 20_000, 3_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("name")
    parser.add_argument("-t", "--tokenizer", default="mvtm-scenes")
    options = parser.parse_args()
    found = find_tokenizer(options.tokenizer)
    tokenizer = getattr(found, "image", found)  # a checkpoint's, or a run of vq
    side = tokenizer.model.factor
    seen: Counter[bytes] = Counter()
    rng = np.random.default_rng(0)
    for _ in range(TRAINING):
        seen.update({*patches(render(*draw_scene(rng, "train")), side)})
    often = [patch for patch, times in seen.items() if times >= OFTEN]
    pixels = np.stack([np.frombuffer(p, np.uint8).reshape(side, side, 3) for p in often])
    ids = tokenizer.network.encode(normed(pixels))[:, 0].tolist()
    sharing = Counter(ids)

    known, lost, strange, both = {*often}, 0, 0, 0
    for _ in range(HELD_OUT):
        scene, layout = draw_scene(rng, "test")
        picture = render(scene, layout)
        x_hat = tokenizer.decode(tokenizer.encode(normed(picture[None])))[0]
        wrong = read_scene(x_hat.numpy()) != scene.canonical()
        seldom = not known.issuperset(patches(picture, side))
        lost, strange, both = lost + wrong, strange + seldom, both + (wrong and seldom)
    values = {
        "patches": len(often),
        "patches with a code of their own": sum(sharing[id] == 1 for id in ids),
        "scenes not read back": lost,
        "scenes with a rare patch": strange,
        "scenes with a rare patch not read back": both,
    }
    figures = [
        {"metric": k, "value": v, "n": TRAINING if k.startswith("patches") else HELD_OUT, "seed": 0}
        for k, v in values.items()
    ]
    command = f"python benchmarks/patches.py {options.name} -t {options.tokenizer}"
    append(options.name, command, figures)
    print(*figures, sep="\n")


def patches(picture: np.ndarray, side: int) -> list[bytes]:
    """Those of a picture [H, W, 3], each as the bytes of its pixels."""
    n = len(picture) // side
    rows = picture.reshape(n, side, n, side, 3).swapaxes(1, 2).reshape(n * n, -1)
    return [row.tobytes() for row in rows]


def normed(pictures: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] as [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


main()
