"""Figures of an image checkpoint."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gentool.data.scenes import SPLITS, Scenes
from gentool.data.scenes.language import LANGUAGES
from gentool.data.source import Data
from gentool.device import pick_device
from gentool.errors import UsageError
from gentool.evaluate.distances import (
    LEAST,
    SUBSET,
    SUBSETS,
    Distance,
    cached,
    check_enough,
    features_of,
    usual_distance,
)
from gentool.evaluate.distances import fid as fid_of
from gentool.evaluate.distances import kid as kid_of
from gentool.evaluate.extractors import INCEPTION, Extractor
from gentool.evaluate.figures import Figure
from gentool.evaluate.request import Request
from gentool.evaluate.scenes import captioned_figures, unconditional_figures, verdicts
from gentool.pixels import to_float, to_uint8
from gentool.rng import BatchRng
from gentool.sampling import draw_samples
from gentool.settings import to_tree
from gentool.training.validation import BATCH, held_out_examples


def scenes(request: Request) -> list[Figure]:
    """What samples of a model of the built-in world show; of one that reads captions, also whether
    they show what these say, and that alone where `data` names a split."""
    if not request.loaded.backend.captions:
        return _unprompted(request)
    try:
        request.loaded.backend.no_condition()
        alone = request.data is not None
    except UsageError:  # it was never taught to draw without a caption
        alone = True
    return _captioned(request) if alone else _unprompted(request) + _captioned(request)


def _unprompted(request: Request) -> list[Figure]:
    # Nothing is named that a guidance scale could guide to: it is for the captioned ones.
    bare: dict[str, Any] = {}
    if request.loaded.backend.captions:
        bare = {"guidance_scale": 1.0}
        bare |= {"negative": ""} if hasattr(request.settings, "negative") else {}
    batches = request.drawn(draw_samples, **bare)
    pixels = np.concatenate([to_uint8(images) for _, images in batches])
    return request.of_samples(unconditional_figures(pixels), **bare)


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


def fid(request: Request) -> list[Figure]:
    """The Frechet distance of samples from held-out pictures, whose classes and captions they are
    drawn for."""
    return _distances(request, "fid")


def kid(request: Request) -> list[Figure]:
    """The kernel distance of samples from held-out pictures, and its deviation."""
    return _distances(request, "kid")


def _distances(request: Request, metric: str) -> list[Figure]:
    loaded, device = request.loaded, pick_device(request.device)
    extractor = request.extractor
    check_enough(metric, request.compared, LEAST)
    source, split = request.held_out
    backend, config = loaded.backend, loaded.config.data

    def real() -> Tensor:
        found = held_out_examples(backend, source, config, request.num)
        batches = (torch.stack([e.value.image for e in examples]) for examples in found)
        return features_of(batches, extractor, device)

    key = {"data": source.fingerprint, "config": to_tree(config), "given": request.data}
    facts = {"split": split, "n": request.num, "features": extractor.identity}
    theirs = cached(key | facts, real)
    n = min(request.num, len(theirs))  # told before samples are drawn
    check_enough(metric, n, theirs.shape[1] + 1 if metric == "fid" else LEAST)
    given = _conditions(request, source)
    # As they are in a file: samples and data have 256 shades alike.
    drawn = (to_float(to_uint8(images)) for _, images in request.drawn(draw_samples, given=given))
    ours = features_of(drawn, extractor, device)
    found = fid_of(theirs, ours) if metric == "fid" else kid_of(theirs, ours, request.seed)
    made = {
        "data": source.fingerprint,
        "data_n": len(theirs),
        **how(extractor, metric, n),
        **request.drawn_with(),
        **({"condition": "of the data"} if given else {}),
    }
    return distance_figures(metric, extractor, found, (request.num, request.seed, split, made))


def _conditions(request: Request, source: Data) -> dict[str, Tensor]:
    """Of the held-out examples that samples are compared with: what these are drawn for."""
    backend, config = request.loaded.backend, request.loaded.config.data
    if not (backend.classes or backend.captions):
        return {}
    batches = held_out_examples(backend, source, config, request.num)
    told = [replace(e.value, image=None) for examples in batches for e in examples]  # no pixels
    if backend.classes and list(source.labels) != request.loaded.run_config.data["labels"]:
        told = [replace(each, label=None) for each in told]
    given: dict[str, Tensor] = backend.as_in(told, request.num)
    return given


def compare(
    ours: np.ndarray,
    theirs: np.ndarray,
    metrics: Sequence[str],
    extractor: Extractor,
    device: torch.device,
    seed: int,
    names: dict[str, str],
) -> list[Figure]:
    """FID and KID of two sets of pictures that `check_comparable` lets pass, uint8 [N, H, W, C]. No
    metric named: the usual one. Raises UsageError for fewer pictures than features."""
    n = min(len(ours), len(theirs))
    real, fake = (features_of(_floats(p), extractor, device) for p in (theirs, ours))
    figures = []
    for metric in metrics or [usual_distance(n)]:
        distance = fid_of(real, fake) if metric == "fid" else kid_of(real, fake, seed)
        made = {**names, "data_n": len(theirs), **how(extractor, metric, n)}
        figures += distance_figures(metric, extractor, distance, (len(ours), seed, None, made))
    return figures


def check_comparable(ours: np.ndarray, theirs: np.ndarray, metrics: Sequence[str]) -> None:
    """Raise UsageError for sets of pictures of sizes that differ, too few pictures or a metric that
    does not compare them."""
    if ours.shape[1:] != theirs.shape[1:]:
        sizes = " and ".join(f"{s[2]} × {s[1]} × {s[3]}" for s in (ours.shape, theirs.shape))
        raise UsageError(
            f"the two sets have pictures of {sizes}", "width × height × channels must agree"
        )
    n = min(len(ours), len(theirs))
    for metric in metrics:
        if metric not in ("fid", "kid"):
            raise UsageError(f"no metric {metric!r}", "images have fid and kid")
    check_enough("kid", n, LEAST)


def _floats(pixels: np.ndarray) -> Iterator[Tensor]:
    for start in range(0, len(pixels), BATCH):
        yield to_float(pixels[start : start + BATCH])


def distance_figures(
    metric: str, extractor: Extractor, found: Distance, rest: tuple[int, int, str | None, dict]
) -> list[Figure]:
    """The figure, and its deviation where it has one. rest: n, seed, split and settings."""
    name = f"{metric}[{extractor.name}]"
    figures = [Figure(name, found.value, *rest)]
    if found.deviation is not None:
        figures.append(Figure(f"{metric}_deviation[{extractor.name}]", found.deviation, *rest))
    return figures


def how(extractor: Extractor, metric: str, n: int) -> dict[str, Any]:
    """By what pictures were compared, for the figures' settings."""
    subset = {"subsets": SUBSETS, "subset_size": min(SUBSET, n // 2)} if metric == "kid" else {}
    return {
        "features": extractor.name,
        "resized_to": extractor.size,
        "resizing": "bilinear, antialiased" if extractor.name != INCEPTION else "torch-fidelity's",
        **subset,
    }


def bound(request: Request) -> list[Figure]:
    """The bound in bits per dimension: its sum, its three parts, and L_t of every step t."""
    loaded, settings = request.loaded, request.settings
    network = loaded.network.to(pick_device(request.device))
    source, split = request.held_out
    sums = torch.zeros(settings.steps + 1, dtype=torch.float64)
    n = 0
    total = math.ceil(min(request.num, source.size or request.num) / BATCH) * len(sums)
    batches = held_out_examples(loaded.backend, source, loaded.config.data, request.num)
    for number, examples in enumerate(batches):
        rng = BatchRng([example.rng for example in examples])
        pictures = [example.value for example in examples]
        for i, term in enumerate(loaded.backend.bound(network, pictures, rng, settings)):
            sums[i] += term.cpu().double().sum().item()
            request.progress(number * len(sums) + i + 1, total)
        n += len(examples)
    prior, *steps = (sums / n).tolist()
    made = {"data": source.fingerprint, **request.drawn_with(), "precision": "fp32"}
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
