"""Figures of an image checkpoint."""

import math

import numpy as np
import torch

from gentool.data.scenes import SPLITS, Scenes
from gentool.data.scenes.language import LANGUAGES
from gentool.device import pick_device
from gentool.evaluate.figures import Figure
from gentool.evaluate.request import Request
from gentool.evaluate.scenes import captioned_figures, unconditional_figures, verdicts
from gentool.render import to_uint8
from gentool.rng import BatchRng
from gentool.sampling import draw_samples
from gentool.training.validation import BATCH, held_out_examples


def scenes(request: Request) -> list[Figure]:
    """What samples of a model of the built-in world show; of one that reads captions, whether they
    show what these say."""
    if request.loaded.backend.captions:
        return _captioned(request)
    batches = request.drawn(draw_samples)
    pixels = np.concatenate([to_uint8(images) for _, images in batches])
    return request.of_samples(unconditional_figures(pixels))


def _captioned(request: Request) -> list[Figure]:
    """A picture for each of `num` captions: of each split that was not trained on, or of the one
    named as data, in each language that the model was trained in."""
    captions, language = request.loaded.backend.captions, request.loaded.config.data.language
    name, _, split = (request.data or "").partition(":")
    splits = [split or "test"] if name == "scenes" else [s for s in SPLITS if s != "train"]
    figures = []
    for split in splits:
        for spoken in LANGUAGES if language == "both" else (language,):
            source = Scenes(split, spoken)
            lines = [source[index].caption for index in range(request.num)]
            batches = request.drawn(draw_samples, given={"text": captions.rows(lines)})
            pixels = np.concatenate([to_uint8(images) for _, images in batches])
            made = {"data": source.fingerprint, **request.drawn_with()}
            figures += [
                Figure(f"{metric}[{split}-{spoken}]", value, request.num, request.seed, split, made)
                for metric, value in captioned_figures(verdicts(pixels, lines)).items()
            ]
    return figures


def bound(request: Request) -> list[Figure]:
    """The bound in bits per dimension: its sum, its three parts, and L_t of every step t."""
    loaded, settings = request.loaded, request.settings
    network = loaded.network.to(pick_device(request.device))
    source, split = request.held_out()
    sums = torch.zeros(settings.steps + 1, dtype=torch.float64)
    n = 0
    total = math.ceil(min(request.num, source.size or request.num) / BATCH) * len(sums)
    batches = held_out_examples(loaded.backend, source, loaded.config.data, request.num)
    for number, examples in enumerate(batches):
        rng = BatchRng([example.rng for example in examples])
        pictures = [example.value for example in examples]
        for i, term in enumerate(loaded.backend.bound(network, pictures, rng, settings)):
            sums[i] += term.double().sum().item()
            request.progress(number * len(sums) + i + 1, total)
        n += len(examples)
    prior, *steps = (sums / n).tolist()
    made = {"data": source.fingerprint, **request.drawn_with()}
    parts = {
        "bpd": prior + math.fsum(steps),
        "bpd[prior]": prior,
        "bpd[kl]": math.fsum(steps[:-1]),
        "bpd[decoder]": steps[-1],
    }
    terms = {f"bpd[t={t}]": term for t, term in enumerate(reversed(steps))}
    return [
        Figure(name, value, n, None, split, made, detail=name in terms)
        for name, value in (parts | terms).items()
    ]
