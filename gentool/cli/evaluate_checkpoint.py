"""`gentool eval BACKEND` for the backends that draw."""

from typing import Annotated, Any

from gentool.cli import options
from gentool.cli.console import console
from gentool.cli.figures import (
    Gate,
    HeldOut,
    Metric,
    OnError,
    Pictures,
    check_idle,
    check_pictures,
    check_syntax,
    check_used,
    checked_data,
    report,
)
from gentool.cli.options import count, value
from gentool.cli.sample_text import Classifier, Control, check_steering
from gentool.registry import Options, options_module


def evaluate(
    backend: str,
    settings: dict[str, Any],
    checkpoint: options.Checkpoint = None,
    metric: Metric = None,
    data: HeldOut = None,
    judge: Annotated[
        str | None,
        value("DIR|NAME", "Who says how likely samples are: a run of train judge. (default: none)"),
    ] = None,
    features: Annotated[
        str | None,
        value(
            "DIR|NAME",
            "What fid and kid compare pictures by: a run of train features, a vision model of "
            "transformers, or inception. Alone it asks for kid, from 10000 samples on for fid.",
        ),
    ] = None,
    control: Control = None,
    classifier: Classifier = None,
    num: Annotated[int, count("Samples and examples.", show_default=True)] = 512,
    pictures: Pictures = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    on_error: OnError = None,
    gate: Gate = None,
    as_json: options.Json = False,
) -> None:
    """Figures of a {backend} checkpoint.

    \b
    gentool eval {backend} --num 512 --steps 50
    gentool eval {backend} --checkpoint runs/mine --metric loss --json
    gentool eval {backend} --data scenes:test-novel --gate 'loss<=0.1'
    """
    check_syntax(gate)
    if options_module(backend).KIND == "text":
        check_steering(settings, control, classifier)
    check_pictures(pictures, metric)
    for option, given, uses in (
        ("--judge", judge, ["judge"]),
        ("--features", features, ["kid", "fid"]),
    ):
        if given:
            check_used(f"{option} {given}", metric, uses)
    check_idle([*settings, *(["control"] if control else [])], metric)
    from gentool.control import open_controls
    from gentool.evaluate.metrics import measure
    from gentool.evaluate.request import Request
    from gentool.sampling import introduced, opened

    loaded, chosen = opened(checkpoint, backend, settings)
    checked_data(loaded.config.data, on_error)
    console.info(introduced(loaded, chosen))
    request = Request(
        loaded,
        chosen,
        data,
        num,
        seed,
        device,
        batch_size,
        precision,
        judge,
        open_controls(loaded, control, classifier, device) if control else None,
        features,
        progress=console.denoising,
        pictures=pictures,
    )
    report(measure(request, metric or []), gate or [], as_json)


def absent(module: Options) -> list[str]:
    """The parameters of `evaluate` that are no options of a backend, by its configuration."""
    names = [] if module.TOKENS else ["pictures"]
    return names + (["features"] if module.KIND == "text" else ["judge", "control", "classifier"])
