"""`gentool bench` for the backends that make text of text."""

from typing import Annotated

from gentool.cli import options
from gentool.cli.bench_report import (
    Checkpoints,
    Plot,
    Repeats,
    checked_plot,
    chosen_checkpoints,
    numbers,
    run,
)
from gentool.cli.console import console
from gentool.cli.figures import HeldOut
from gentool.cli.options import count, value
from gentool.cli.translate import BatchTokens, Fast
from gentool.registry import backend_options


def bench_pairs(
    backend: str,
    checkpoint: Checkpoints = None,
    steps: Annotated[
        str, value("N,N,...", "Passes of the decoder, T.", show_default=True)
    ] = "1,2,4,10",
    length_beam: Annotated[
        str | None,
        value("N,N,...", "Target lengths tried for each source. (default: the checkpoint's)"),
    ] = None,
    fast: Fast = False,
    metric: Annotated[
        str | None,
        value("NAME", "Quality is this figure of eval. (default: scenes, of other data BLEU)"),
    ] = None,
    data: HeldOut = None,
    num: Annotated[int, count("Sentences each time.", show_default=True)] = 64,
    repeats: Repeats = 3,
    batch_tokens: BatchTokens = 4096,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    plot: Plot = None,
    as_json: options.Json = False,
) -> None:
    """Measure {backend} checkpoints at numbers of steps and of lengths.

    \b
    gentool bench {backend} --steps 1,2,4,10 --length-beam 1,3,5
    gentool bench {backend} -c runs/a -c runs/b --metric quality --plot speed.png
    gentool bench {backend} --fast --json > fast.jsonl

    `gentool bench plot` lays the records of several --json over each other.
    """
    least, *more = numbers("steps", steps)
    beams = [{"length_beam": n} for n in numbers("length-beam", length_beam)] if length_beam else []
    from gentool.checkpoint.load import load_checkpoint
    from gentool.evaluate.bench import TimedPairs, quality_metric
    from gentool.sampling import sample_settings

    checked_plot(plot)
    jobs = []
    for folder in chosen_checkpoints(checkpoint, backend):
        loaded = load_checkpoint(folder, backend)
        section = backend_options(backend).DecodeConfig
        for one in beams or [{}]:
            for n in (least, *more):
                chosen = sample_settings(loaded, one | {"steps": n}, section)
                request = TimedPairs(
                    loaded, chosen, data, num, 0, device, 0, precision, batch_tokens=batch_tokens,
                    how={"fast": fast}, progress=console.decoded,
                )  # fmt: skip
                name = quality_metric(request, metric)
                if name == "scenes" and data is None:
                    request.data = "scenes:test"
                jobs.append((request, name, "gentool"))
    run(jobs, least, repeats, plot, as_json)
