"""Figures of an image tokenizer: what is lost on the way to tokens and back."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from gentool.data.scenes import read_scene
from gentool.device import pick_device
from gentool.errors import UsageError
from gentool.evaluate.figures import Figure
from gentool.evaluate.request import Request
from gentool.outputs import write_picture
from gentool.render import pairs, to_uint8
from gentool.training.validation import held_out_examples

SHOWN = 32  # pictures beside their reconstructions


def reconstruction(request: Request) -> list[Figure]:
    """Held-out pictures as the tokenizer gives them back; the first of them go to
    `request.pictures`, each with its reconstruction to the right."""
    loaded = request.loaded
    image, device = loaded.backend.image, pick_device(request.device)
    source, split = request.held_out
    batches = []
    for examples in held_out_examples(loaded.backend, source, loaded.config.data, request.num):
        x = torch.stack([example.value.image for example in examples])
        ids = image.encode(x.to(device))
        batches.append((x, image.decode(ids).cpu(), ids.cpu()))
    if not batches:
        raise UsageError(f"{request.data} holds no pictures")
    x, x_hat, ids = (torch.cat(parts) for parts in zip(*batches, strict=True))
    if request.pictures:
        write_picture(pairs(to_uint8(x[:SHOWN]), to_uint8(x_hat[:SHOWN])), request.pictures)
    values = token_figures(x, x_hat, ids, image.size)
    if request.of_scenes:
        values |= read_back(to_uint8(x), to_uint8(x_hat))
    made = {"data": source.fingerprint, "tokenizer": image.hash[:16]}
    return [Figure(name, value, len(x), None, split, made) for name, value in values.items()]


def token_figures(x: Tensor, x_hat: Tensor, ids: Tensor, K: int) -> dict[str, float | None]:
    """Of pictures x [B, C, H, W] in [-1, 1], their reconstructions, and ids [B, N] below K.

    psnr: 10 log10 of the squared range of a pixel over the mean squared error, in dB.
    codebook_usage: share of the K codes that occur. codebook_perplexity: exp of the entropy of how
    often each does, so many codes as if all were used alike.
    """
    error = (x.double() - x_hat.double()).square().mean().item()
    counts = torch.bincount(ids.flatten(), minlength=K).double()
    p = counts[counts > 0] / counts.sum()
    return {
        "psnr": 10 * math.log10(4 / error) if error else None,
        "codebook_usage": (counts > 0).double().mean().item(),
        "codebook_perplexity": math.exp(-(p * p.log()).sum().item()),
    }


def read_back(images: Iterable[np.ndarray], again: Iterable[np.ndarray]) -> dict[str, float | None]:
    """scene_read_back: share of the scenes in `images` whose reconstruction shows the same scene.
    Both are uint8 [32, 32, 3] each."""
    same = []
    for image, other in zip(images, again, strict=True):
        wanted, seen = read_scene(image), read_scene(other)
        if wanted is not None:
            same.append(seen is not None and seen.canonical() == wanted.canonical())
    return {"scene_read_back": sum(same) / len(same) if same else None}
