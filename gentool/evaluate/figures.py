"""One report format for all figures, and gates on them. Imports no torch."""

import math
import operator
import re
from dataclasses import asdict, dataclass
from typing import Any

from gentool.errors import GateError, UsageError, nearest


@dataclass
class Figure:
    """One figure and what it was measured with. Holds no time: the same run gives the same."""

    metric: str
    value: float | None  # None: undefined, such as a share of nothing
    n: int  # samples it was measured on
    seed: int | None
    split: str | None
    settings: dict[str, Any]
    detail: bool = False  # one of many, for --json alone

    def record(self) -> dict[str, Any]:
        """For --json."""
        record = asdict(self)
        del record["detail"]
        return record


_COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def check_gates(figures: list[Figure], gates: list[str]) -> None:
    """Raise GateError naming every gate ("metric>=0.9") that does not hold, UsageError for a gate
    that cannot be read or names no measured metric."""
    values = {figure.metric: figure.value for figure in figures}
    failed = []
    for gate in gates:
        metric, compare, limit = parse_gate(gate)
        if metric not in values:
            raise UsageError(f"--gate {gate!r}: {metric} was not measured", nearest(metric, values))
        value = values[metric]
        if value is None or not compare(value, limit):
            failed.append(
                f"{metric} is {'undefined' if value is None else f'{value:.6g}'}, not {gate}"
            )
    if failed:
        raise GateError("gate failed: " + "; ".join(failed))


def parse_gate(gate: str) -> tuple[str, Any, float]:
    """ "kid<0.05" as (metric, comparison, limit). Raises UsageError."""
    match = re.fullmatch(r"\s*(.*[^\s<>=])\s*(>=|<=|>|<)\s*([^\s<>=]+)\s*", gate)
    try:
        if match and math.isfinite(limit := float(match[3])):
            return match[1], _COMPARE[match[2]], limit
    except ValueError:
        pass
    raise UsageError(f"--gate takes, e.g., 'scene_validity>=0.9', got {gate!r}")
