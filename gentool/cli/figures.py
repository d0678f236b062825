"""How figures are told, and what is asked of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gentool.checkpoint.atomic import check_place
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
# Of the metrics that do not draw or decode as they are told to: the settings that they use.
USES: dict[str, set[str]] = {
    "loss": set(),
    "reconstruction": set(),
    "bpd": {"steps", "spacing", "variance", "guidance_scale", "guidance_from", "guidance_to"}
    | {"negative"},
    "bound": {"steps", "spacing"},
    "table": {"fast", "dedup", "gold_length"},
}
OnError = Annotated[
    str | None, value("stop|skip", "On a record that cannot be read. (default: the run's)")
]
Pictures = Annotated[
    Path | None, value("x.png", "Pictures, each beside its reconstruction, go here.")
]
HeldOut = Annotated[
    str | None,
    value("SPEC", "Data to measure against. (default: what the run held out)"),
]


def checked_data(config: Any, on_error: str | None) -> None:
    """Put --on-error into the [data] section of a checkpoint. Raises UsageError."""
    if on_error not in (None, "stop", "skip"):
        raise UsageError(f"--on-error is stop or skip, got {on_error!r}")
    config.on_error = on_error or config.on_error


def check_syntax(gates: list[str] | None) -> None:
    """Raise UsageError for a gate that cannot be read, before anything is measured."""
    for gate in gates or []:
        parse_gate(gate)


def check_used(option: str, metrics: list[str] | None, uses: Sequence[str]) -> None:
    """Raise UsageError for an option, as it was given, if none of those that it is for is asked
    for."""
    if metrics and not {*uses} & {*metrics}:
        raise UsageError(
            f"{option} is for the metric {' or '.join(uses)}, not {', '.join(metrics)}",
            f"--metric {uses[0]} beside it",
        )


def check_pictures(pictures: Path | None, metrics: list[str] | None) -> None:
    """Raise UsageError if --pictures cannot be written, or is not asked for."""
    if not pictures:
        return
    if pictures.suffix != ".png":
        raise UsageError(f"--pictures {pictures}: pictures are written as PNG", "--pictures x.png")
    check_place(pictures)
    check_used(f"--pictures {pictures}", metrics, ["reconstruction"])


def check_idle(names: Sequence[str], metrics: list[str] | None) -> None:
    """Raise UsageError for a setting of drawing or decoding that none of the metrics asked for
    uses."""
    for name in names:
        if metrics and all(name not in USES.get(metric, {name}) for metric in metrics):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} does nothing for {', '.join(metrics)}", "leave it out")


def report(figures: "Iterable[Figure]", gates: list[str], as_json: bool) -> None:
    """Print the figures as they come, then raise GateError if a gate does not hold."""
    told = []
    for figure in figures:
        told.append(figure)
        if as_json:
            console.record(figure.record())
        elif not figure.detail:
            value = "undefined" if figure.value is None else f"{figure.value:.4f}"
            console.result(f"{figure.metric:32} {value:>10}   n = {figure.n}")
    check_gates(told, gates)
