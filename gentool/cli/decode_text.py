"""`gentool decode` for the backends that write text of their own: blanks are filled."""

from typing import Annotated, Any

import typer

from gentool.cli import options
from gentool.cli.answers import OnError, Unread, check_on_error, tell_waiting, write_answers
from gentool.cli.console import console
from gentool.cli.options import count
from gentool.cli.sample_text import Out
from gentool.cli.tracing import Trace, tracing
from gentool.errors import BadDataError
from gentool.registry import options_module


def decode_text(
    backend: str,
    settings: dict[str, Any],
    inputs: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT|-",
            help="Lines with blanks, ___ for one token, ___:3 for three. (default: standard input)",
            show_default=False,
        ),
    ] = None,
    checkpoint: options.Checkpoint = None,
    num: Annotated[int, count("Ways to fill each line, a line each. (default: 1)")] = 1,
    seed: options.Seed = 0,
    out: Out = "-",
    trace: Trace = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    on_error: OnError = "skip",
    as_json: options.Json = False,
) -> None:
    """Fill the blanks of each input line.

    \b
    echo 'a ___ circle above a blue ___' | gentool decode {backend}
    gentool decode {backend} blanks.txt --num 3 --steps 50 > filled.txt

    What is given comes back exactly as it was; an empty line stays empty.
    """
    check_on_error(on_error)
    from gentool.render.traces import check_trace_target
    from gentool.sampling import fill_lines, introduced, opened
    from gentool.streams import arriving_lines

    if trace:
        check_trace_target(trace, out=out)
    section = options_module(backend).DecodeConfig
    loaded, chosen = opened(checkpoint, backend, settings, section)
    console.info(f"{introduced(loaded, chosen)}, seed {seed}")
    how: dict[str, Any] = {"batch_size": batch_size, "device": device, "precision": precision,
                           "progress": console.denoising}  # fmt: skip

    def record(number: int, text: object) -> dict[str, Any]:
        told = {"line": number + 1, "seed": seed, "text": text if isinstance(text, str) else ""}
        return told | ({"error": str(text)} if isinstance(text, Exception) else {})

    unread = Unread()
    tell_waiting(inputs)
    with tracing(trace, "decode", loaded, chosen, seed) as how["recorder"]:
        lines = arriving_lines(inputs or "-")
        filled = fill_lines(loaded, lines, seed, chosen, num, unknown=unread.tell, **how)
        skipped = write_answers(filled, record, out, num=num, on_error=on_error, as_json=as_json)
    unread.rest()
    if skipped:
        raise BadDataError(skipped)
