"""Figures of a checkpoint: which metrics there are, and the loss, which all backends have."""

from collections.abc import Callable, Sequence

from gentool.device import pick_device
from gentool.errors import UsageError, nearest
from gentool.evaluate import images, texts
from gentool.evaluate.distances import usual_distance
from gentool.evaluate.figures import Figure
from gentool.evaluate.request import Request
from gentool.training.validation import validation_loss


def loss(request: Request) -> list[Figure]:
    """The training loss on held-out examples, with noise that is always the same."""
    loaded = request.loaded
    network = loaded.network.to(pick_device(request.device))
    source, split = request.held_out()
    value, n = validation_loss(loaded.backend, network, source, loaded.config.data, request.num)
    made = {"checkpoint_step": loaded.step, "data": source.fingerprint}
    return [Figure("loss", value, n, None, split, made)]


Metric = Callable[[Request], list[Figure]]
METRICS: dict[str, dict[str, Metric]] = {
    "images": {
        "loss": loss,
        "bpd": images.bound,
        "scenes": images.scenes,
        "fid": images.fid,
        "kid": images.kid,
    },
    "text": {"loss": loss, "scenes": texts.scenes, "diversity": texts.diversity},
}
SLOW = ("bpd",)  # a call of the network per step and example: measured when asked for


def measure(request: Request, names: Sequence[str]) -> list[Figure]:
    """The figures of the metrics `names`; none named: all that fit the data, but the slow ones.

    Raises UsageError for an unknown metric.
    """
    metrics = dict(METRICS[request.kind])
    is_scenes = "scenes" in request.loaded.config.data.spec
    for name in names:
        if name not in metrics:
            backend = request.loaded.run_config.backend
            known = f"{backend} has {', '.join(metrics)}"
            raise UsageError(f"no metric {name!r}: {known}", nearest(name, metrics))
        if name == "scenes" and not is_scenes:
            raise UsageError("metric 'scenes' is for models of scenes")
    left_out = {*SLOW} if is_scenes else {*SLOW, "scenes"}
    # FID is biased, and the more the fewer the samples; both need to be told what to compare by.
    left_out |= {"fid", "kid"} - {usual_distance(request.num) if request.features else ""}
    usual = [name for name in metrics if name not in left_out]
    return [figure for name in names or usual for figure in metrics[name](request)]
