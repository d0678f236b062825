"""`gentool eval` for the backends that make text of text, and for their outputs as files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.cli import options
from gentool.cli.console import console
from gentool.cli.figures import Gate, HeldOut, Metric, report
from gentool.cli.options import flag, value
from gentool.cli.translate import BatchTokens, Dedup, Fast
from gentool.errors import BadDataError, UsageError
from gentool.evaluate.figures import Figure, parse_gate
from gentool.registry import options_module


def evaluate_pairs(
    backend: str,
    settings: dict[str, Any],
    checkpoint: options.Checkpoint = None,
    metric: Metric = None,
    data: HeldOut = None,
    num: Annotated[int, typer.Option("--num", "-n", metavar="N", min=1, help="Sentences.")] = 512,
    fast: Fast = False,
    dedup: Dedup = False,
    gold_length: Annotated[
        bool, flag("--gold-length", "Take the lengths of the references, for analysis.")
    ] = False,
    batch_tokens: BatchTokens = 4096,
    device: options.Device = "auto",
    precision: options.Precision = None,
    gate: Gate = None,
    as_json: options.Json = False,
) -> None:
    """Figures of a {backend} checkpoint: loss, quality, scenes; table when asked for.

    \b
    gentool eval {backend} --steps 4
    gentool eval {backend} --metric table -n 1000 --json
    gentool eval {backend} -c runs/mine --data test.en,test.de --gate 'bleu>=30'

    How long decoding takes is told on standard error.
    """
    for text in gate or []:
        parse_gate(text)
    from gentool.checkpoint.load import find_checkpoint, load_checkpoint
    from gentool.evaluate.checkpoint import measure
    from gentool.evaluate.pairs import PairRequest
    from gentool.sampling import sample_settings, words

    loaded = load_checkpoint(find_checkpoint(checkpoint, backend), backend)
    chosen = sample_settings(loaded, settings, options_module(backend).DecodeConfig)
    console.info(f"checkpoint {loaded.folder} (step {loaded.step}), {words(chosen)}")
    request = PairRequest(
        loaded, chosen, data, num, 0, device, 0, precision,
        progress=lambda done, total: console.progress(done, total, {"decoded": "sentences"}),
        batch_tokens=batch_tokens, gold_length=gold_length, how={"fast": fast, "dedup": dedup},
        tell=console.info,
    )  # fmt: skip
    report(measure(request, metric or []), gate or [], as_json)


def evaluate_text(
    hypotheses: Annotated[str, typer.Argument(metavar="HYP|-", help="Texts, one on each line.")],
    ref: Annotated[
        list[str], value("FILE", "What line i should be, on line i; repeatable: other references.")
    ],
    tokenize: Annotated[
        str,
        value(
            "13a|zh|char|intl|none",
            "How BLEU finds words. (default: zh where the references are Chinese, else 13a)",
        ),
    ] = "",
    gate: Gate = None,
    as_json: options.Json = False,
) -> None:
    """BLEU, chrF and repetition of texts beside references, with sacrebleu's signatures.

    \b
    gentool eval text out.de --ref test.de
    gentool decode mask-predict test.en | gentool eval text - --ref test.de --json
    """
    for line in gate or []:
        parse_gate(line)
    from gentool.evaluate.translation import scores
    from gentool.streams import place, stream_lines

    if ref.count("-") + (hypotheses == "-") > 1:
        raise UsageError("only one of HYP and --ref can be standard input")
    texts = list(stream_lines(hypotheses))
    references = [list(stream_lines(name)) for name in ref]
    for name, lines in zip(ref, references, strict=True):
        if len(lines) != len(texts):
            raise BadDataError(
                f"{place(hypotheses)} has {len(texts)} lines, {place(name)} has {len(lines)}"
            )
    if not texts:
        raise BadDataError(f"{place(hypotheses)} has no lines, so there is nothing to score")
    with_ = {"hypotheses": Path(hypotheses).name, "references": [Path(name).name for name in ref]}
    figures = [
        Figure(k, score.value, len(texts), None, None, with_ | {"signature": score.signature})
        for k, score in scores(texts, references, tokenize).items()
    ]
    if not as_json:
        for figure in figures[:2]:
            console.info(f"{figure.metric}: {figure.settings['signature']}")
    report(figures, gate or [], as_json)
