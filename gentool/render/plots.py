"""Plots by matplotlib: the curves of runs."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gentool.checkpoint.atomic import write_file
from gentool.errors import BadDataError, UsageError

ENDINGS = (".png", ".svg", ".pdf")
PANELS = {
    "loss": "training loss",
    "val_loss": "validation loss",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
}
WIDE = 20  # a loss that falls by more is drawn on a scale of powers
STYLES = ("-", "--", ":", "-.")


def check_plot_target(target: str) -> None:
    """Raise UsageError if no plot can be written to `target`, also where matplotlib is missing."""
    if Path(target).suffix not in ENDINGS:
        raise UsageError(f"--plot {target}: not a {', '.join(ENDINGS)}")
    _figure(1, 1)


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw the records of log.jsonl of each run: losses, learning rate, gradient norm, by step.

    Raises BadDataError for a run that has logged nothing.
    """
    figure = _figure(10, 7)
    grid = figure.subplots(2, 2)
    for number, (name, records) in enumerate(runs.items()):
        if not any("loss" in record for record in records):
            raise BadDataError(f"{name} has logged no steps")
        for axes, key in zip(grid.flat, PANELS, strict=True):
            points = [(r["step"], r[key]) for r in records if key in r]
            if points:
                few = "o" if len(points) < 12 else ""
                style = STYLES[number // 10 % len(STYLES)]
                label = name if key == "loss" else None
                axes.plot(
                    *zip(*points, strict=True), marker=few, ms=3, lw=1.3, ls=style,
                    color=f"C{number % 10}", label=label,
                )  # fmt: skip
    for axes, (key, title) in zip(grid.flat, PANELS.items(), strict=True):
        values = [r[key] for records in runs.values() for r in records if key in r]
        if not values:
            axes.text(0.5, 0.5, "none yet", ha="center", transform=axes.transAxes)
        elif key != "learning_rate" and 0 < min(values) < max(values) / WIDE:
            axes.set_yscale("log")
        finish(axes, title, "step")
    figure.legend(loc="outside lower center", ncols=min(3, len(runs)), frameon=False)
    save(figure, path)


def finish(axes: Any, title: str, x: str) -> None:
    """What all plots share."""
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Any, path: Path) -> None:
    """Write a figure, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=130)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, buffer.getvalue())


def _figure(width: float, height: float) -> Any:
    """An empty figure, inches wide and high. Raises UsageError where there is no matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "--plot needs matplotlib, which is not installed", "pip install 'gentool[eval]'"
        ) from None
    return Figure((width, height), layout="constrained")
