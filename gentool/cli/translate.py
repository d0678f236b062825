"""`gentool decode` for the backends that make text of text."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from gentool.cli import options
from gentool.cli.answers import OnError, Unread, check_on_error, tell_waiting, write_answers
from gentool.cli.console import console
from gentool.cli.options import flag, value
from gentool.cli.sample_text import Out
from gentool.cli.tracing import Trace, tracing
from gentool.errors import BadDataError, UsageError
from gentool.registry import options_module

BatchTokens = Annotated[
    int,
    value(
        "N",
        "Tokens of sources at a time, padding included, times the length candidates.",
        *("--batch-tokens", "-b"),
        min=1,
        show_default=True,
    ),
]
Fast = Annotated[
    bool,
    flag(
        "--fast",
        "Not the paper's method: after the first pass one length is kept, and a sentence takes no "
        "more passes than it has unsure tokens.",
    ),
]
Dedup = Annotated[bool, flag("--dedup", "Of equal tokens side by side keep one.")]


def translate(
    backend: str,
    settings: dict[str, Any],
    inputs: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT|-",
            help="A sentence on each line. (default: standard input)",
            show_default=False,
        ),
    ] = None,
    checkpoint: options.Checkpoint = None,
    n_best: Annotated[
        int, value("N", "The N best for each line, a line each. (default: 1)", "--n-best", min=1)
    ] = 1,
    fast: Fast = False,
    dedup: Dedup = False,
    gold_length: Annotated[
        str | None,
        value("FILE", "Take the lengths of these references, for analysis; around them the beam."),
    ] = None,
    out: Out = "-",
    trace: Trace = None,
    batch_tokens: BatchTokens = 4096,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    on_error: OnError = "skip",
    as_json: options.Json = False,
) -> None:
    """Write a sentence for each input line.

    \b
    echo 'a small red circle in the top left' | gentool decode {backend}
    gentool decode {backend} in.txt --steps 4 --length-beam 3 > out.txt
    gentool decode {backend} in.txt --length-beam 5 --n-best 5 --json
    gentool decode {backend} in.txt --trace how.html

    Lines come out in order, as soon as they are done; an empty line stays empty.
    """
    check_on_error(on_error)
    if gold_length == "-" and (inputs or "-") == "-":
        raise UsageError("only one of INPUT and --gold-length can be standard input")
    from gentool.protocol import Hypothesis
    from gentool.render.traces import check_trace_target
    from gentool.sampling import introduced, opened
    from gentool.streams import arriving_lines, stream_lines
    from gentool.trace import SAMPLES
    from gentool.translation import translate_lines

    loaded, chosen = opened(checkpoint, backend, settings, options_module(backend).DecodeConfig)
    if n_best > chosen.length_beam:
        raise UsageError(
            f"--n-best {n_best}: there are only --length-beam {chosen.length_beam} candidates",
            f"--n-best 1 to {chosen.length_beam}, or a larger --length-beam",
        )
    if n_best > 1 and fast:
        raise UsageError("--fast keeps one candidate of each line, so there is no --n-best")
    if trace:
        if fast:
            raise UsageError("--trace shows the paper's method, so it goes without --fast")
        check_trace_target(trace, out=out)
    console.info(introduced(loaded, chosen))
    first: list[str] = []  # lines, that a trace shows
    unknown, unread = loaded.backend.source.special("unk"), Unread()
    tell_waiting(inputs)

    def lines() -> Iterator[str | BadDataError | None]:
        number = 0
        for line in arriving_lines(inputs or "-"):
            number += line is not None
            if isinstance(line, str) and unknown in loaded.backend.source.encode(line):
                unread.tell(number)
            if trace and line is not None and len(first) < SAMPLES:
                first.append(str(line))
            yield line

    def record(number: int, answer: Any) -> dict[str, Any]:
        told: dict[str, Any] = {"id": number + 1, "text": "", "score": None, "length": 0}
        if isinstance(answer, Hypothesis):
            told |= {"text": answer.text, "score": round(answer.score, 4), "length": answer.length}
        told["steps"] = answer.steps if isinstance(answer, Hypothesis) else 0
        return told | ({"error": str(answer)} if isinstance(answer, Exception) else {})

    with tracing(trace, "decode", loaded, chosen, None, first.__getitem__) as recorder:
        answers = translate_lines(
            loaded,
            lines(),
            chosen,
            references=stream_lines(gold_length) if gold_length else None,
            batch_tokens=batch_tokens,
            device=device,
            precision=precision,
            n_best=n_best,
            dedup=dedup,
            fast=fast,
            recorder=recorder,
        )
        skipped = write_answers(
            answers, record, out, num=n_best, on_error=on_error, as_json=as_json
        )
    unread.rest()
    if skipped:
        raise BadDataError(skipped)
