"""How figures are printed, and gates on them, for everything that `eval` measures."""

from typing import Annotated

from gentool.cli.console import console
from gentool.cli.options import value
from gentool.evaluate.figures import Figure, check_gates

Gate = Annotated[
    list[str] | None,
    value("'METRIC>=X'", "Exit 7 unless this holds; repeatable."),
]


def report(figures: list[Figure], gates: list[str], as_json: bool) -> None:
    """Print the figures, then raise GateError if a gate does not hold."""
    for figure in figures:
        if as_json:
            console.record(figure.record())
        elif not figure.detail:
            value = "undefined" if figure.value is None else f"{figure.value:.4f}"
            console.result(f"{figure.metric:32} {value:>10}   n = {figure.n}")
    check_gates(figures, gates)
