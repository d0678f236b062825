"""How `gentool data check` tells what it found."""

from typing import TYPE_CHECKING, Any

from gentool.cli.console import console
from gentool.errors import BadDataError

if TYPE_CHECKING:
    from gentool.data.check import Problem


def tell(problem: "Problem", as_json: bool) -> None:
    """Print a problem of a check."""
    if as_json:
        console.record({"bad": problem.key, "reason": problem.reason})
    else:
        console.result(f"bad: {problem.key}: {problem.reason}")


def conclude(summary: dict[str, Any], as_json: bool) -> None:
    """Print what a check found. Raises BadDataError if something was bad."""
    if as_json:
        console.record(summary)
    else:
        for name, value in summary.items():
            console.result(f"{name}: {_plain(value)}")
    if summary["bad"]:
        raise BadDataError(
            f"{summary['bad']} of {summary['records']} records cannot be used",
            "remove them, or train with --set data.on_error=skip",
        )


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} × {n}" for k, n in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return str(value)
