"""`gentool eval` for the backends that make text of text."""

from typing import Annotated, Any

from gentool.cli import options
from gentool.cli.console import console
from gentool.cli.figures import (
    Gate,
    HeldOut,
    Metric,
    OnError,
    check_idle,
    check_syntax,
    check_used,
    checked_data,
    report,
)
from gentool.cli.options import count, flag, value
from gentool.cli.translate import BatchTokens, Dedup, Fast
from gentool.registry import options_module


def evaluate_pairs(
    backend: str,
    settings: dict[str, Any],
    checkpoint: options.Checkpoint = None,
    metric: Metric = None,
    data: HeldOut = None,
    twin: Annotated[
        str | None,
        value(
            "DIR|NAME",
            "An autoregressive model beside it: a run of train teacher, or a seq2seq checkpoint of "
            "transformers.",
        ),
    ] = None,
    num: Annotated[int, count("Sentences.", show_default=True)] = 512,
    fast: Fast = False,
    dedup: Dedup = False,
    gold_length: Annotated[
        bool, flag("--gold-length", "Take the lengths of the references, for analysis.")
    ] = False,
    batch_tokens: BatchTokens = 4096,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    on_error: OnError = None,
    gate: Gate = None,
    as_json: options.Json = False,
) -> None:
    """Figures of a {backend} checkpoint: loss, quality, scenes; table when asked for.

    \b
    gentool eval {backend} --steps 4
    gentool eval {backend} --metric table -n 1000 --json
    gentool eval {backend} -c runs/mine --data test.en,test.de --gate 'bleu>=30'
    gentool eval {backend} -c runs/mine --twin runs/teacher-multi30k

    How long decoding takes is told on standard error.
    """
    check_syntax(gate)
    if twin:
        check_used(f"--twin {twin}", metric, ["twin"])
    flags = {"fast": fast, "dedup": dedup, "gold_length": gold_length}
    check_idle([*settings, *(name for name, given in flags.items() if given)], metric)
    from gentool.evaluate.metrics import measure
    from gentool.evaluate.pairs import PairRequest
    from gentool.sampling import introduced, opened

    loaded, chosen = opened(checkpoint, backend, settings, options_module(backend).DecodeConfig)
    checked_data(loaded.config.data, on_error)
    console.info(introduced(loaded, chosen))
    request = PairRequest(
        loaded, chosen, data, num, 0, device, 0, precision,
        progress=console.decoded,
        batch_tokens=batch_tokens, gold_length=gold_length, how={"fast": fast, "dedup": dedup},
        twin=twin, tell=console.info,
    )  # fmt: skip
    report(measure(request, metric or []), gate or [], as_json)
