"""`gentool decode` for the backends that draw: a picture for each line, or edits of a picture."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.cli import options
from gentool.cli.answers import Unread, check_on_error, tell_waiting
from gentool.cli.console import console
from gentool.cli.options import count, value
from gentool.cli.pictures import Out, check_guided, check_streams, with_blanks, write
from gentool.cli.tracing import Trace, tracing
from gentool.errors import BadDataError, UsageError
from gentool.registry import options_module


def decode_images(
    backend: str,
    settings: dict[str, Any],
    inputs: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT|-",
            help="A caption on each line, or a class name for models of classes; an empty line is "
            "any picture. (default: standard input; with --image: what waits there, if anything)",
            show_default=False,
        ),
    ] = None,
    checkpoint: options.Checkpoint = None,
    image: Annotated[Path | None, value("FILE", "Redraw a part of this picture.")] = None,
    box: Annotated[str | None, value("x,y,w,h", "The part: a box, in pixels.")] = None,
    mask: Annotated[Path | None, value("FILE", "The part: where this picture is white.")] = None,
    num: Annotated[
        int | None,
        count("How many edits, without INPUT. (default: 1)"),
    ] = None,
    seed: options.Seed = 0,
    out: Out = None,
    trace: Trace = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    on_error: Annotated[
        str, value("skip|stop", "A line that cannot be drawn: a white picture, or the end.")
    ] = "skip",
    as_json: options.Json = False,
) -> None:
    """Draw a picture for each input line, or redraw a part of a picture.

    \b
    gentool decode {backend} captions.txt --guidance-scale 2 --out drawn/
    printf 'cat\\ndog\\n' | gentool decode {backend} -c runs/mine --out animals/
    gentool decode {backend} --image in.png --box 8,8,16,16 -n 4
    echo 'a large red circle' | gentool decode {backend} --image in.png --box 8,8,16,16
    gentool decode {backend} --image in.png --mask hole.png --out out.png

    Picture I belongs to line I and makes the draws of sample I.
    """
    section = options_module(backend).DecodeConfig
    varied = image is not None and "strength" in settings  # all of it, in part
    whole = (image is None or varied) and not box and not mask
    if not whole and (image is None or (box is None) == (mask is None)):
        hint = "--strength X alone varies all of it" if hasattr(section, "strength") else ""
        raise UsageError("an edit takes --image with one of --box and --mask", hint)
    if num and (image is None or inputs is not None):
        raise UsageError("--num is for edits without INPUT; each line of INPUT is one picture")
    check_on_error(on_error)
    check_streams(out, as_json)
    if [str(place) for place in (inputs, image, mask)].count("-") > 1:
        raise UsageError("standard input is one thing: only one of INPUT, --image and --mask is -")
    idle = section.of_edits if image is None else section.not_of_edits
    if named := [name.replace("_", "-") for name in idle if name in settings]:
        where = "without --image" if image is None else "in an edit"
        raise UsageError(f"--{named[0]} does nothing {where}", "leave it out")
    if whole and settings.get("blend"):
        raise UsageError("--blend does nothing where all is drawn anew", "--box or --mask")
    import torch

    from gentool.inputs import edit_lines, input_lines, line_class, read_edit, unread
    from gentool.outputs import check_target
    from gentool.render.traces import check_trace_target
    from gentool.sampling import class_names, draw_samples, introduced, opened

    check_target(out)
    if trace:
        check_trace_target(trace, out=out)
    loaded, chosen = opened(checkpoint, backend, settings, section)
    shape, labels = loaded.backend.shape, class_names(loaded)
    edit = read_edit(image, box, mask, shape) if image else {}
    edits = image is not None and inputs is None
    if not edits:
        tell_waiting(inputs)
    read = edit_lines(num, (image, mask), console.info) if edits else input_lines(inputs or "-")
    if edits and not any(read):
        loaded.backend.no_condition()  # of all, and no fault of a line
    lines = ["" if isinstance(line, BadDataError) else line for line in read]

    captions = loaded.backend.captions
    y: list[int] = []
    bad: set[int] = set()
    cut = Unread()
    for number, line in enumerate(read):
        try:
            if isinstance(line, BadDataError):
                raise line
            y.append(line_class(line, loaded.backend, labels))
            if captions and (note := unread(captions, line)):
                cut.tell(number + 1, f": {note}")
        except (BadDataError, UsageError) as error:
            message = f"line {number + 1}: {error}"
            if on_error == "stop":
                raise BadDataError(message, error.hint) from None
            console.warn("; ".join(filter(None, (message, error.hint))))
            bad.add(number)
    cut.rest()
    good = [number for number in range(len(lines)) if number not in bad]
    check_guided(settings, [lines[number] for number in good])
    given = {"y": torch.tensor(y)} if labels else {}
    if captions:
        given["text"] = captions.rows([lines[number] for number in good])
    given |= {name: each.expand(len(good), *each.shape) for name, each in edit.items()}
    console.info(f"{introduced(loaded, chosen, but=idle)}, "
                 f"seed {seed}")  # fmt: skip

    def facts(number: int) -> dict[str, Any]:
        what = "caption" if captions else "class"
        return {"seed": seed, what: lines[number], "skipped": number in bad}

    with tracing(trace, "decode", loaded, chosen, seed, lines.__getitem__) as recorder:
        drawn = draw_samples(
            loaded,
            good,
            seed,
            chosen,
            given=given,
            passes=chosen.passes if image else 1,
            batch_size=batch_size,
            device=device,
            precision=precision,
            progress=console.denoising,
            recorder=recorder,
        )
        batches, stem = with_blanks(drawn, sorted(bad), shape), f"{backend}-seed{seed}"
        write(batches, (len(lines), *shape), out, stem, facts if as_json else None)
    if bad:
        raise BadDataError(f"{len(bad)} of {len(lines)} lines skipped: white pictures stand in")
