"""Figures of an image tokenizer: what is lost on the way to tokens and back."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from gentool.data.scenes import read_scene
from gentool.device import pick_device
from gentool.evaluate.figures import Figure
from gentool.evaluate.request import Request
from gentool.outputs import write_picture
from gentool.pixels import to_uint8
from gentool.render import pairs
from gentool.training.validation import held_out_examples

SHOWN = 32  # pictures beside their reconstructions


def reconstruction(request: Request) -> list[Figure]:
    """Held-out pictures as the tokenizer gives them back; the first of them go to
    `request.pictures`, each with its reconstruction to the right."""
    loaded = request.loaded
    image, device = request.image, pick_device(request.device)
    source, split = request.held_out
    losses = Losses(image.size)
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    for examples in held_out_examples(loaded.backend, source, loaded.config.data, request.num):
        x = torch.stack([example.value.image for example in examples])
        ids = image.encode(x.to(device))
        x_hat = image.decode(ids).cpu()
        losses.add(x, x_hat, ids.cpu())
        pixels = list(zip(to_uint8(x), to_uint8(x_hat), strict=True))
        shown += pixels[: SHOWN - len(shown)]
        if request.of_scenes:
            losses.read_back(pixels)
    if request.pictures:
        before, after = (np.stack(side) for side in zip(*shown, strict=True))
        write_picture(pairs(before, after), request.pictures)
    made = {"data": source.fingerprint, "tokenizer": image.hash[:16]}
    figures = losses.figures().items()
    return [Figure(name, value, losses.n, None, split, made) for name, value in figures]


class Losses:
    """What pictures lose on the way to tokens and back, batch by batch."""

    def __init__(self, K: int) -> None:
        """K: how many codes there are."""
        self.n = 0  # pictures
        self.values = 0  # of all their pixels
        self.squares = 0.0  # of the errors of these
        self.counts = torch.zeros(K, dtype=torch.float64)  # how often each code occurred
        self.same: list[bool] | None = None  # of scenes, where these are read

    def add(self, x: Tensor, x_hat: Tensor, ids: Tensor) -> None:
        """Pictures x [B, C, H, W] in [-1, 1], their reconstructions, and ids [B, N] below K."""
        self.n += len(x)
        self.values += x.numel()
        self.squares += (x.double() - x_hat.double()).square().sum().item()
        self.counts += torch.bincount(ids.flatten(), minlength=len(self.counts))

    def read_back(self, pixels: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Scenes and their reconstructions, uint8 [32, 32, 3] each."""
        self.same = self.same or []
        for image, other in pixels:
            wanted, seen = read_scene(image), read_scene(other)
            if wanted is not None:
                self.same.append(seen is not None and seen.canonical() == wanted.canonical())

    def figures(self) -> dict[str, float | None]:
        """psnr: 10 log10 of the squared range of a pixel over the mean squared error, in dB.
        codebook_usage: share of the K codes that occur. codebook_perplexity: exp of the entropy of
        how often each does, so many codes as if all were used alike. scene_read_back, of scenes:
        share whose reconstruction shows the same scene.
        """
        error = self.squares / self.values
        p = self.counts[self.counts > 0] / self.counts.sum()
        figures = {
            "psnr": 10 * math.log10(4 / error) if error else None,
            "codebook_usage": (self.counts > 0).double().mean().item(),
            "codebook_perplexity": math.exp(-(p * p.log()).sum().item()),
        }
        if self.same is not None:
            share = sum(self.same) / len(self.same) if self.same else None
            figures["scene_read_back"] = share
        return figures
