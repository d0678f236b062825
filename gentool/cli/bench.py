"""`gentool bench BACKEND`: quality against time."""

from typing import Annotated, Any

from gentool.cli import options
from gentool.cli.bench_pairs import bench_pairs
from gentool.cli.bench_report import (
    Checkpoints,
    Plot,
    Repeats,
    checked_plot,
    chosen_checkpoints,
    numbers,
    plot_records,
    run,
)
from gentool.cli.commands import add_command
from gentool.cli.console import console
from gentool.cli.figures import check_used
from gentool.cli.help import group
from gentool.cli.options import count, value
from gentool.cli.sample_text import STEERING
from gentool.registry import BACKENDS, backend_options, draws, options_module, peer

app = group("Quality, seconds and memory for numbers of steps.")


def bench(
    backend: str,
    settings: dict[str, Any],
    checkpoint: Checkpoints = None,
    steps: Annotated[
        str | None, value("N,N,...", "Numbers of steps. (default: 5,10,25,50; mvtm 1,2,4,8,16)")
    ] = None,
    sampler: Annotated[
        str | None, value("NAME,...", "Samplers. (default: the checkpoint's)")
    ] = None,
    metric: Annotated[
        str | None,
        value("NAME", "Quality is this figure of eval. (default: scenes, where they are drawn)"),
    ] = None,
    judge: Annotated[
        str | None, value("DIR|NAME", "Quality is how likely this judge finds samples.")
    ] = None,
    features: Annotated[
        str | None, value("DIR|NAME", "Quality is kid by these, from 10000 samples on fid.")
    ] = None,
    against: Annotated[
        str | None, value("LIBRARY", "The same weights drawn by diffusers, beside.")
    ] = None,
    num: Annotated[int, count("Samples each time.", show_default=True)] = 64,
    repeats: Repeats = 3,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    plot: Plot = None,
    as_json: options.Json = False,
) -> None:
    """Measure {backend} checkpoints at several numbers of steps.

    \b
    gentool bench {backend} --steps 4,8,16
    gentool bench {backend} -c runs/a -c runs/b --plot speed.png
    gentool bench {backend} --json > mine.jsonl

    `gentool bench plot` lays the records of several --json over each other.
    """
    default = "1,2,4,8,16" if backend_options(backend).TOKENS else "5,10,25,50"
    least, *more = numbers("steps", steps or default)
    samplers = [{"sampler": name.strip()} for name in sampler.split(",")] if sampler else [{}]
    from gentool.checkpoint.load import load_checkpoint
    from gentool.evaluate.bench import TimedRequest, quality_metric
    from gentool.sampling import sample_settings

    checked_plot(plot)
    for option, given, uses in (
        ("--judge", judge, ["judge"]),
        ("--features", features, ["kid", "fid"]),
    ):
        if given and metric:
            check_used(f"{option} {given}", [metric], uses)
    jobs = []
    for folder in chosen_checkpoints(checkpoint, backend):
        loaded = load_checkpoint(folder, backend)
        sides = [("gentool", loaded)]
        if against:
            sides.append((against, peer(backend, against).peer(loaded)))
        for one in samplers:
            for n in (least, *more):
                chosen = sample_settings(loaded, settings | one | {"steps": n})
                for by, side in sides:
                    request = TimedRequest(
                        side, chosen, None, num, seed, device, batch_size, precision, judge,
                        features=features, progress=console.denoising,
                    )  # fmt: skip
                    name = quality_metric(request, metric)
                    if name == "scenes" and loaded.backend.captions:
                        request.data = "scenes:test"  # what reads captions is asked to show them
                    jobs.append((request, name, by))
    run(jobs, least, repeats, plot, as_json)


def _absent(backend: str) -> list[str]:
    """The parameters of `bench` that are no options of a backend."""
    module = options_module(backend)
    is_text = module.KIND == "text"
    absent = ["features", "against"] if is_text else ["judge"]
    fields = module.SampleConfig.__dataclass_fields__
    return absent + ([] if "sampler" in fields else ["sampler", "against"])


def _but(backend: str) -> set[str]:
    """The sampling settings that are no options: lists of their own, and what steers a control."""
    steering = STEERING if options_module(backend).KIND == "text" else set()
    return {"steps", "sampler"} | steering


for _backend in BACKENDS:
    if draws(_backend):
        add_command(
            app,
            _backend,
            bench,
            backend=_backend,
            section=options_module(_backend).SampleConfig,
            but=_but(_backend),
            absent=_absent(_backend),
            panel=f"{_backend} sampling (default: the checkpoint's)",
        )
    else:
        add_command(app, _backend, bench_pairs, backend=_backend)
add_command(app, "plot", plot_records)
