"""`gentool eval`: figures of a checkpoint, or of files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.cli import options
from gentool.cli.commands import add_command, group
from gentool.cli.console import console
from gentool.cli.evaluate_images import images
from gentool.cli.figures import Gate, report
from gentool.cli.options import value
from gentool.errors import UsageError
from gentool.evaluate.figures import Figure, parse_gate
from gentool.registry import BACKENDS, options_module

app = group("Measure a checkpoint, or files.")


def evaluate(
    backend: str,
    settings: dict[str, Any],
    checkpoint: options.Checkpoint = None,
    metric: Annotated[
        list[str] | None,
        value("NAME", "What to measure; repeatable. (default: all that fit, but bpd)"),
    ] = None,
    data: Annotated[
        str | None,
        value("SPEC", "Data to measure against. (default: what the run held out)"),
    ] = None,
    features: Annotated[
        str | None,
        value(
            "DIR|NAME",
            "What fid and kid compare pictures by: a run of train features, a vision model of "
            "transformers, or inception. Alone it asks for kid, from 10000 samples on for fid.",
        ),
    ] = None,
    num: Annotated[
        int, typer.Option("--num", "-n", metavar="N", min=1, help="Samples and examples.")
    ] = 512,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    precision: options.Precision = None,
    gate: Gate = None,
    as_json: options.Json = False,
) -> None:
    """Figures of a {backend} checkpoint.

    \b
    gentool eval {backend} --num 512 --steps 50
    gentool eval {backend} --checkpoint runs/mine --metric loss --json
    gentool eval {backend} --data scenes:test-novel --gate 'loss<=0.1'
    """
    for text in gate or []:
        parse_gate(text)
    from gentool.checkpoint.load import find_checkpoint, load_checkpoint
    from gentool.evaluate.checkpoint import measure
    from gentool.evaluate.request import Request
    from gentool.sampling import sample_settings, words

    loaded = load_checkpoint(find_checkpoint(checkpoint, backend), backend)
    chosen = sample_settings(loaded, settings)
    console.info(f"checkpoint {loaded.folder} (step {loaded.step}), {words(chosen)}")
    request = Request(
        loaded,
        chosen,
        data,
        num,
        seed,
        device,
        batch_size,
        precision,
        features,
        progress=lambda done, total: console.progress(done, total, {"denoising": "steps"}),
    )
    report(measure(request, metric or []), gate or [], as_json)


def scenes(
    images: Annotated[
        str, typer.Option(metavar="DIR|x.npy", help="Pictures, 32 × 32 RGB, in order of name.")
    ],
    captions: Annotated[
        str | None,
        value("FILE|-", "What picture i should show, on line i."),
    ] = None,
    gate: Gate = None,
    as_json: options.Json = False,
) -> None:
    """Score pictures of the built-in world.

    \b
    gentool eval scenes --images drawn/
    gentool eval scenes --images drawn.npy --captions captions.txt
    """
    from gentool.evaluate.attributes import attribute_figures
    from gentool.evaluate.files import read_images
    from gentool.evaluate.scenes import captioned_figures, unconditional_figures, verdicts
    from gentool.streams import stream_lines

    pixels = read_images(images)
    confusion: dict[str, float] = {}
    if captions is None:
        values = unconditional_figures(pixels)
    else:
        lines = list(stream_lines(captions))
        if len(lines) != len(pixels):
            raise UsageError(f"{len(pixels)} pictures but {len(lines)} captions")
        found = verdicts(pixels, lines)
        shares, confusion = attribute_figures(found)
        values = captioned_figures(found) | shares
    where = {"images": Path(images).name}
    figures = [
        Figure(k, v, len(pixels), None, None, where, detail=k in confusion)
        for k, v in (values | confusion).items()
    ]
    report(figures, gate or [], as_json)


for _backend in BACKENDS:
    _module = options_module(_backend)
    add_command(
        app,
        _backend,
        evaluate,
        backend=_backend,
        section=_module.SampleConfig,
        panel=f"{_backend} sampling (default: the checkpoint's)",
    )
add_command(app, "scenes", scenes)
add_command(app, "images", images)
