"""Figures of a checkpoint: which metrics there are, and the loss, which all backends have."""

from collections.abc import Callable, Sequence
from typing import Any

from gentool.device import pick_device
from gentool.errors import UsageError
from gentool.evaluate import images, pairs, texts, tokens, twin
from gentool.evaluate.distances import usual_distance
from gentool.evaluate.figures import Figure
from gentool.evaluate.request import Request
from gentool.registry import backend_options
from gentool.training.validation import validation_loss


def loss(request: Request) -> list[Figure]:
    """The training loss on held-out examples, with noise that is always the same."""
    loaded = request.loaded
    network = loaded.network.to(pick_device(request.device))
    source, split = request.held_out()
    value, n = validation_loss(loaded.backend, network, source, loaded.config.data, request.num)
    made = {"checkpoint_step": loaded.step, "data": source.fingerprint}
    return [Figure("loss", value, n, None, split, made)]


Metric = Callable[[Any], list[Figure]]  # of a Request; those of pairs, of a PairRequest
METRICS: dict[str, dict[str, Metric]] = {
    "images": {
        "loss": loss,
        "bpd": images.bound,
        "reconstruction": tokens.reconstruction,
        "scenes": images.scenes,
        "fid": images.fid,
        "kid": images.kid,
    },
    "text": {
        "loss": loss,
        "scenes": texts.scenes,
        "diversity": texts.diversity,
        "self-bleu": texts.self_bleu,
        "copies": texts.copies,
        "judge": texts.judge,
        "control": texts.control,
        "bound": texts.bound,
    },
    "pairs": {
        "loss": loss,
        "quality": pairs.quality,
        "scenes": pairs.scenes,
        "twin": twin.twin,
        "table": pairs.table,
    },
}
# What a request opens for metrics.
OPENED = {"extractor": ("fid", "kid"), "judging": ("judge",), "teacher": ("twin",)}
# Measured when asked for: they take long, or another package.
SLOW = ("bpd", "bound", "self-bleu", "table")


def measure(request: Request, names: Sequence[str]) -> list[Figure]:
    """The figures of the metrics `names`; none named: all that fit the data, but the slow ones.

    Raises UsageError for an unknown metric.
    """
    metrics = dict(METRICS[request.kind if request.draws else "pairs"])
    options = backend_options(request.loaded.run_config.backend)
    bound, tokens = options.BOUND, options.TOKENS
    for name, has in {"bpd": bound, "bound": bound, "reconstruction": tokens}.items():
        if not has:
            metrics.pop(name, None)
    for name in names:
        if name not in metrics:
            backend = request.loaded.run_config.backend
            raise UsageError(f"no metric {name!r}: {backend} has {', '.join(metrics)}")
        if name == "scenes" and not request.of_scenes:
            raise UsageError("metric 'scenes' is for models of scenes")
    fits = {
        "scenes": request.of_scenes,
        "copies": not request.of_scenes,
        "judge": request.judge is not None,
        "control": request.controls is not None,
        "twin": request.twin is not None,
        # FID is biased, and the more the fewer the samples; both need something to compare by.
        **dict.fromkeys(("fid", "kid"), False),
    }
    if request.features:
        fits[usual_distance(request.num)] = True
    usual = [name for name in metrics if name not in SLOW and fits.get(name, True)]
    chosen = names or usual
    for opened, users in OPENED.items():
        if {*users} & {*chosen}:
            getattr(request, opened)  # before any work: it may be missing
    return [figure for name in chosen for figure in metrics[name](request)]
