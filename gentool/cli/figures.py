"""How figures are told, and what is asked of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from gentool.cli.console import console
from gentool.cli.options import value
from gentool.errors import UsageError
from gentool.evaluate.figures import check_gates, parse_gate

if TYPE_CHECKING:
    from gentool.evaluate.figures import Figure

Gate = Annotated[
    list[str] | None,
    value("'METRIC>=X'", "Exit 7 unless this holds; repeatable."),
]
Metric = Annotated[
    list[str] | None,
    value("NAME", "What to measure; repeatable. (default: the quick ones that fit)"),
]
HeldOut = Annotated[
    str | None,
    value("SPEC", "Data to measure against. (default: what the run held out)"),
]


def check_syntax(gates: list[str] | None) -> None:
    """Raise UsageError for a gate that cannot be read, before anything is measured."""
    for gate in gates or []:
        parse_gate(gate)


def check_used(option: str, metrics: list[str] | None, uses: Sequence[str] = ()) -> None:
    """Raise UsageError for an option, as it was given, that none of the metrics asked for uses.

    uses: those that it is for; where there are none, all that draw or decode.
    """
    if not metrics or {*uses} & {*metrics}:
        return
    if uses:
        raise UsageError(
            f"{option} is for the metric {' or '.join(uses)}, not {', '.join(metrics)}",
            f"--metric {uses[0]} beside it",
        )
    if not {*metrics} - {"loss", "reconstruction"}:
        raise UsageError(f"{option} does nothing for {', '.join(metrics)}", "leave it out")


def report(figures: "list[Figure]", gates: list[str], as_json: bool) -> None:
    """Print the figures, then raise GateError if a gate does not hold."""
    for figure in figures:
        if as_json:
            console.record(figure.record())
        elif not figure.detail:
            value = "undefined" if figure.value is None else f"{figure.value:.4f}"
            console.result(f"{figure.metric:32} {value:>10}   n = {figure.n}")
    check_gates(figures, gates)
