"""`gentool bench BACKEND`: quality against time."""

from typing import Annotated, Any

from gentool.cli import options
from gentool.cli.bench_report import draw, plot_records, row
from gentool.cli.commands import add_command, group
from gentool.cli.console import console
from gentool.cli.options import value
from gentool.errors import UsageError
from gentool.registry import BACKENDS, draws, options_module

app = group("Quality, seconds and memory for numbers of steps.")

Plot = Annotated[
    str | None, value("FILE", "Draw quality against time: FILE.png, .svg or .pdf.", "--plot")
]


def bench(
    backend: str,
    settings: dict[str, Any],
    checkpoint: Annotated[
        list[str] | None,
        value(
            "DIR|NAME",
            "Checkpoint folder, or the name of a shipped one; repeatable. (default: "
            "BACKEND-scenes)",
            *("--checkpoint", "-c"),
        ),
    ] = None,
    steps: Annotated[str, value("N,N,...", "Numbers of steps.", show_default=True)] = "5,10,25,50",
    sampler: Annotated[
        str | None, value("NAME,...", "Samplers. (default: the checkpoint's)")
    ] = None,
    metric: Annotated[
        str | None,
        value("NAME", "Quality is this figure of eval. (default: scenes, where they are drawn)"),
    ] = None,
    against: Annotated[
        str | None, value("LIBRARY", "The same weights drawn by diffusers, beside (ddpm).")
    ] = None,
    num: Annotated[
        int, value("N", "Samples each time.", "--num", "-n", min=1, show_default=True)
    ] = 64,
    repeats: Annotated[
        int, value("N", "Times, with a seed each; shows the spread.", min=1, show_default=True)
    ] = 3,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    precision: options.Precision = None,
    plot: Plot = None,
    as_json: options.Json = False,
) -> None:
    """Measure {backend} checkpoints at several numbers of steps.

    \b
    gentool bench {backend} --steps 5,10,25,50,250
    gentool bench {backend} -c runs/a -c runs/b --plot speed.png
    gentool bench {backend} --json > mine.jsonl

    `gentool bench plot` lays the records of several --json over each other.
    """
    numbers = _numbers(steps)
    samplers = [name.strip() for name in sampler.split(",")] if sampler else []
    from gentool.checkpoint.load import find_checkpoint, load_checkpoint
    from gentool.evaluate import bench as run
    from gentool.registry import peer
    from gentool.sampling import sample_settings

    if plot:
        from gentool.render.plots import check_plot_target

        check_plot_target(plot)
    folders = [find_checkpoint(name, backend) for name in checkpoint or (None,)]
    jobs = []
    for folder in folders:
        loaded = load_checkpoint(folder, backend)
        chosen = sample_settings(loaded, settings)
        name = run.quality_metric(loaded, metric)
        sides = [("gentool", loaded)]
        captioned = getattr(loaded.backend, "captions", None) is not None
        if against:
            sides.append((against, peer(backend, against).peer(loaded)))
        for one in run.varied(chosen, numbers, samplers):
            for by, side in sides:
                # What reads captions is asked to show them.
                data = "scenes:test" if name == "scenes" and captioned else None
                how = (side, one, data, num, seed, device, batch_size, precision)
                jobs.append((run.TimedRequest(*how), name, by))
    least = min(numbers)
    records = []
    for number, (request, name, by) in enumerate(jobs):
        if request.settings.steps == least:
            run.warm_up(request)
        record = run.bench(request, name, repeats, by)
        records.append(record)
        if as_json:
            console.record(record)
        else:
            row(record, first=number == 0)
    if plot:
        draw(records, plot)


def _numbers(text: str) -> list[int]:
    """ "5,10" as numbers. Raises UsageError."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise UsageError(f"--steps takes numbers such as 5,10,25, got {text!r}")
    return sorted(set(found))


for _backend in filter(draws, BACKENDS):
    _module = options_module(_backend)
    add_command(
        app,
        _backend,
        bench,
        backend=_backend,
        section=_module.SampleConfig,
        but=("steps", "sampler"),
        panel=f"{_backend} sampling (default: the checkpoint's)",
    )
add_command(app, "plot", plot_records)
