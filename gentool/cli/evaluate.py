"""`gentool eval`: figures of a checkpoint, or of files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.cli import options
from gentool.cli.commands import add_command, group
from gentool.cli.console import console
from gentool.cli.evaluate_pairs import evaluate_pairs, evaluate_text
from gentool.cli.figures import Gate, HeldOut, Metric, report
from gentool.cli.options import value
from gentool.cli.sample_text import Classifier, Control
from gentool.errors import UsageError
from gentool.evaluate.figures import Figure, parse_gate
from gentool.registry import BACKENDS, draws, options_module

app = group("Measure a checkpoint, or files.")


def evaluate(
    backend: str,
    settings: dict[str, Any],
    checkpoint: options.Checkpoint = None,
    metric: Metric = None,
    data: HeldOut = None,
    judge: Annotated[
        str | None,
        value("DIR|NAME", "Whom to ask how likely samples are. (default: judge-scenes)"),
    ] = None,
    control: Control = None,
    classifier: Classifier = None,
    num: Annotated[
        int, typer.Option("--num", "-n", metavar="N", min=1, help="Samples and examples.")
    ] = 512,
    pictures: Annotated[
        Path | None, value("x.png", "Pictures, each beside its reconstruction, go here.")
    ] = None,
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
    from gentool.control import open_controls
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
        judge,
        open_controls(loaded, control, classifier, device) if control else None,
        progress=lambda done, total: console.progress(done, total, {"denoising": "steps"}),
        pictures=pictures,
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
    """Score pictures of the built-in world; with captions, say of each whether it shows its own.

    \b
    gentool eval scenes --images drawn/
    gentool eval scenes --images drawn.npy --captions captions.txt
    """
    from gentool.data.scenes import caption
    from gentool.evaluate.files import read_images
    from gentool.evaluate.scenes import captioned_figures, unconditional_figures, verdicts
    from gentool.streams import stream_lines

    pixels = read_images(images)
    where: dict[str, Any] = {"images": Path(images).name}
    each: list[Figure] = []
    if captions is None:
        values = unconditional_figures(pixels)
    else:
        lines = list(stream_lines(captions))
        if len(lines) != len(pixels):
            raise UsageError(f"{len(pixels)} pictures but {len(lines)} captions")
        found = verdicts(pixels, lines)
        values = captioned_figures(found)
        for number, verdict in enumerate(found):
            shows = caption(verdict.seen, "en", 0) if verdict.seen else None
            told = {**where, "caption": verdict.caption, "shows": shows}
            name, right = f"scene_right[{number}]", verdict.is_right
            each.append(Figure(name, float(right), 1, None, None, told, detail=True))
            if not as_json:
                wrong = "" if right else f"   shows: {shows or 'no scene'}"
                answer = "right" if right else "wrong"
                console.result(f"{number:4}  {answer}  {verdict.caption}{wrong}")
    figures = [Figure(k, v, len(pixels), None, None, where) for k, v in values.items()]
    report(figures + each, gate or [], as_json)


def _absent(module: Any) -> dict[str, None]:
    """The parameters of `evaluate` that are no options of this backend."""
    absent = [] if getattr(module, "TOKENS", False) else ["pictures"]
    return dict.fromkeys(absent + ["judge", "control", "classifier"] * (module.KIND != "text"))


for _backend in BACKENDS:
    _module = options_module(_backend)
    _panel = f"{_backend} sampling (default: the checkpoint's)"
    if draws(_backend):
        add_command(
            app, _backend, evaluate, section=_module.SampleConfig, panel=_panel,
            backend=_backend, **_absent(_module),
        )  # fmt: skip
    else:
        add_command(
            app, _backend, evaluate_pairs, section=_module.DecodeConfig, panel=_panel,
            backend=_backend,
        )  # fmt: skip
add_command(app, "scenes", scenes)
add_command(app, "text", evaluate_text)
