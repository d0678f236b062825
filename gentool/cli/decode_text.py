"""`gentool decode` for the backends that write text: one output line for each input line."""

import json
from typing import Annotated, Any

import typer

from gentool.cli import options
from gentool.cli.console import console
from gentool.cli.options import value
from gentool.cli.sample_text import Out
from gentool.cli.tracing import Trace, tracing
from gentool.errors import BadDataError, UsageError
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
    num: Annotated[
        int, value("N", "Ways to fill each line, a line each. (default: 1)", "--num", "-n", min=1)
    ] = 1,
    seed: options.Seed = 0,
    out: Out = "-",
    trace: Trace = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    precision: options.Precision = None,
    on_error: Annotated[
        str, value("skip|stop", "A line that cannot be filled: an empty line, or the end.")
    ] = "skip",
    as_json: options.Json = False,
) -> None:
    """Fill the blanks of each input line.

    \b
    echo 'a ___ circle above a blue ___' | gentool decode {backend}
    gentool decode {backend} blanks.txt --num 3 --steps 50 > filled.txt

    What is given comes back exactly as it was; an empty line stays empty.
    """
    if on_error not in ("skip", "stop"):
        raise UsageError(f"--on-error is skip or stop, got {on_error!r}")
    from gentool.checkpoint.load import find_checkpoint, load_checkpoint
    from gentool.outputs import text_file
    from gentool.render.traces import check_trace_target
    from gentool.sampling import fill_lines, sample_settings, words
    from gentool.streams import stream_any_lines

    if trace:
        check_trace_target(trace)
    loaded = load_checkpoint(find_checkpoint(checkpoint, backend), backend)
    section = options_module(backend).DecodeConfig
    chosen = sample_settings(loaded, settings, section)
    console.info(f"checkpoint {loaded.folder} (step {loaded.step}), {words(chosen)}, seed {seed}")
    bad = n = 0
    how: dict[str, Any] = {"batch_size": batch_size, "device": device, "precision": precision}
    tracer = tracing(trace, "decode", loaded, chosen, seed)
    with text_file(out) as file, tracer as how["recorder"]:
        lines = stream_any_lines(inputs or "-")
        for number, texts in fill_lines(loaded, lines, seed, chosen, num, **how):
            if isinstance(texts, BadDataError):
                message = f"line {number + 1}: {texts}"
                if on_error == "stop":
                    raise BadDataError(message, texts.hint)
                console.warn(f"{message}; {texts.hint}" if texts.hint else message)
                bad, texts = bad + 1, [""] * num
            console.stop()  # a bar on the terminal makes way for the lines
            for text in texts:
                record = {"line": number + 1, "seed": seed, "text": text}
                file.write((json.dumps(record, ensure_ascii=False) if as_json else text) + "\n")
            file.flush()
            n = number + 1
            console.progress(n, 0, {"filled": "lines"})
    console.stop()
    if bad:
        raise BadDataError(f"{bad} of {n} lines skipped: empty lines stand in")
