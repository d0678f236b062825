"""How `gentool data check` tells what it found."""

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from gentool.cli.console import console
from gentool.errors import BadDataError

if TYPE_CHECKING:
    from gentool.data.check import Problem

ALIKE = 20


class Findings:
    """Tells of the problems of a check: under --json of all, else of the first ALIKE of a kind."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.alike: Counter[str] = Counter()

    def tell(self, problem: "Problem") -> None:
        """Print a problem."""
        kind = re.sub(r"\d+", "…", problem.reason)  # offsets and sizes differ
        self.alike[kind] += 1
        if self.as_json:
            console.record({"bad": problem.key, "reason": problem.reason})
        elif self.alike[kind] <= ALIKE:
            console.result(f"bad: {problem.key}: {problem.reason}")

    def rest(self) -> None:
        """Print how many more there were of each kind."""
        for kind, n in self.alike.items():
            if n > ALIKE and not self.as_json:
                console.result(f"bad: {n - ALIKE} more: {kind}")


def conclude(findings: Findings, summary: dict[str, Any]) -> None:
    """Print what a check found. Raises BadDataError if something was bad."""
    findings.rest()
    if findings.as_json:
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
