"""The metrics of a checkpoint, one line each, and the loss, which all backends have."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gentool.device import pick_device
from gentool.errors import UsageError
from gentool.evaluate import images, pairs, texts, tokens, twin
from gentool.evaluate.distances import usual_distance
from gentool.evaluate.figures import Figure
from gentool.evaluate.request import Request
from gentool.extras import extra
from gentool.registry import Options, backend_options
from gentool.training.validation import validation_loss


def loss(request: Request) -> list[Figure]:
    """The training loss on held-out examples, with noise that is always the same."""
    loaded = request.loaded
    network = loaded.network.to(pick_device(request.device))
    source, split = request.held_out
    value, n = validation_loss(loaded.backend, network, source, loaded.config.data, request.num)
    made = {"checkpoint_step": loaded.step, "data": source.fingerprint}
    return [Figure("loss", value, n, None, split, made)]


@dataclass(frozen=True)
class Metric:
    """How a metric is measured, and when. Requests are those of pairs for metrics of pairs."""

    measure: Callable[[Any], list[Figure]]
    usual: Callable[[Any], bool] = lambda request: True  # is it measured without being named?
    # What is looked for before any work, as it may be missing: of the request, and installed.
    needs: str = ""
    library: str = ""
    has: Callable[[Options], bool] = lambda backend: True  # do all backends of the kind have it?
    bench: bool = True  # does it depend on how one samples, by options that `bench` has?


def _when_asked(request: Request) -> bool:
    """It takes long, or another package."""
    return False


def _of_scenes(request: Request) -> bool:
    return request.of_scenes


def _of_own_data(request: Request) -> bool:
    """Scenes are copies by chance; who names other data need not have those of the training."""
    return not request.of_scenes and request.data is None


def _distance(name: str) -> Callable[[Request], bool]:
    """Both need something to compare by, and FID is biased, the more the fewer the samples."""
    return lambda request: bool(request.features) and usual_distance(request.compared) == name


METRICS = {
    "images": {
        "loss": Metric(loss, bench=False),
        "bpd": Metric(
            images.bound, usual=_when_asked, has=lambda backend: backend.BOUND, bench=False
        ),
        "reconstruction": Metric(
            tokens.reconstruction, has=lambda backend: backend.TOKENS, bench=False
        ),
        "scenes": Metric(images.scenes, usual=_of_scenes),
        "fid": Metric(images.fid, _distance("fid"), "extractor", "torchmetrics.image.fid"),
        "kid": Metric(images.kid, _distance("kid"), "extractor", "torchmetrics.image.kid"),
    },
    "tokens": {
        "loss": Metric(loss, bench=False),
        "reconstruction": Metric(tokens.reconstruction, needs="image", bench=False),
    },
    "text": {
        "loss": Metric(loss, bench=False),
        "scenes": Metric(texts.scenes, usual=_of_scenes),
        "diversity": Metric(texts.diversity),
        "self-bleu": Metric(texts.self_bleu, _when_asked, library="sacrebleu"),
        "copies": Metric(texts.copies, _of_own_data, needs="trained_on"),
        "judge": Metric(texts.judge, usual=lambda request: bool(request.judge), needs="judging"),
        "control": Metric(texts.control, usual=lambda request: bool(request.controls), bench=False),
        "bound": Metric(
            texts.bound, usual=_when_asked, has=lambda backend: backend.BOUND, bench=False
        ),
    },
    "pairs": {
        "loss": Metric(loss, bench=False),
        "quality": Metric(pairs.quality, library="sacrebleu"),
        "scenes": Metric(pairs.scenes, usual=_of_scenes),
        "twin": Metric(
            twin.twin,
            usual=lambda request: bool(request.twin),
            needs="teacher",
            library="sacrebleu",
            bench=False,
        ),
        "table": Metric(pairs.table, _when_asked, library="sacrebleu", bench=False),
    },
}


def metrics_of(request: Request) -> dict[str, Metric]:
    """Those that the backend of the request has, by name."""
    backend = backend_options(request.loaded.run_config.backend)
    made = request.kind if request.draws else {"images": "tokens", "text": "pairs"}[request.kind]
    kind = METRICS[made]
    return {name: metric for name, metric in kind.items() if metric.has(backend)}


def measure(request: Request, names: Sequence[str]) -> Iterator[Figure]:
    """The figures of the metrics `names`, each as soon as it is there; none named: of the usual
    ones.

    Raises UsageError for an unknown metric, and what it needs and is not there, before any work.
    """
    metrics = metrics_of(request)
    for name in names:
        if name not in metrics:
            backend = request.loaded.run_config.backend
            raise UsageError(f"no metric {name!r}: {backend} has {', '.join(metrics)}")
        if name == "scenes" and not request.of_scenes:
            raise UsageError("metric 'scenes' is for models of scenes")
    names = names or [name for name, metric in metrics.items() if metric.usual(request)]
    chosen = {name: metrics[name] for name in names}
    for name, metric in chosen.items():
        if metric.library:
            extra(metric.library, name)
        if metric.needs:
            getattr(request, metric.needs)  # opened once, for when it is measured
    return (figure for metric in chosen.values() for figure in metric.measure(request))
