"""Plots by matplotlib: the curves of runs, and quality against time."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gentool.checkpoint.atomic import check_place, write_file
from gentool.errors import BadDataError, UsageError
from gentool.extras import extra

ENDINGS = (".png", ".svg", ".pdf")
PANELS = {
    "loss": "training loss",
    "val_loss": "validation loss",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
}
# What `quality_against_time` reads of a record.
DRAWN = frozenset(
    (
        *("backend", "checkpoint", "library", "sampler", "length_beam", "fast", "steps", "metric"),
        *("quality", "quality_deviation", "seconds_per_sample", "seconds_least", "seconds_most"),
    )
)
WIDE = 20  # a loss that falls by more is drawn on a scale of powers
STYLES = ("-", "--", ":", "-.")


def check_plot_target(target: str) -> None:
    """Raise UsageError or OSError if no plot can be written to `target`, also where matplotlib is
    missing."""
    if Path(target).suffix not in ENDINGS:
        raise UsageError(f"{target}: plots are written as {', '.join(ENDINGS)}")
    check_place(Path(target))
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


def quality_against_time(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw what `gentool bench` recorded: a line for each checkpoint and way of sampling, a point
    for each number of steps, with its spread. Raises BadDataError where nothing has a quality."""
    lines: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        if record["quality"] is not None:
            by = "" if record["library"] == "gentool" else f"{record['library']}, "
            how = f", {way(record)}" if way(record) else ""
            name = f"{by}{record['backend']} {Path(record['checkpoint']).name}{how}"
            lines.setdefault((name, record["metric"]), []).append(record)
    if not lines:
        raise BadDataError("no record has a quality to draw", "gentool bench ... --metric NAME")
    metrics = {metric for _, metric in lines}
    figure = _figure(8, 5.5)
    axes = figure.subplots()
    for number, ((name, metric), points) in enumerate(lines.items()):
        points.sort(key=lambda record: record["seconds_per_sample"])
        x = [p["seconds_per_sample"] for p in points]
        y = [p["quality"] for p in points]
        across = [
            [p["seconds_per_sample"] - p["seconds_least"] for p in points],
            [p["seconds_most"] - p["seconds_per_sample"] for p in points],
        ]
        axes.errorbar(
            x, y, xerr=across, yerr=[p["quality_deviation"] or 0 for p in points],
            label=name if len(metrics) == 1 else f"{name}: {metric}",
            color=f"C{number % 10}", ls=STYLES[number // 10 % len(STYLES)], marker="o", ms=4,
            lw=1.3, capsize=2,
        )  # fmt: skip
        for p, at in zip(points, zip(x, y, strict=True), strict=True):
            text = f"{p['steps']}"
            axes.annotate(text, at, (4, -11), textcoords="offset points", color=f"C{number % 10}")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(extra("matplotlib.ticker", "--plot").LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.minorticks_off()
    finish(axes, "quality against time; numbers are steps", "seconds per sample")
    axes.set_ylabel(metrics.pop() if len(metrics) == 1 else "quality")
    figure.legend(loc="outside lower center", ncols=1, frameon=False)
    save(figure, path)


def way(record: Mapping[str, Any]) -> str:
    """How the samples of a record came about, beside the number of steps."""
    if record["length_beam"]:
        return f"beam {record['length_beam']}" + (", fast" if record["fast"] else "")
    return record["sampler"] or ""


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
    matplotlib = extra("matplotlib.figure", "--plot")
    return matplotlib.Figure((width, height), layout="constrained")
