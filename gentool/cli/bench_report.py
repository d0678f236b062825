"""What `gentool bench` of all backends shares: options, the table, and `gentool bench plot`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gentool.cli.console import console
from gentool.cli.options import value
from gentool.errors import BadDataError, UsageError

if TYPE_CHECKING:
    from gentool.evaluate.bench import Timed

Checkpoints = Annotated[
    list[str] | None,
    value(
        "DIR|NAME",
        "Checkpoint folder, or the name of a shipped one; repeatable. (default: BACKEND-scenes)",
        *("--checkpoint", "-c"),
    ),
]
Repeats = Annotated[
    int, value("N", "Times, each with its own draws; shows the spread.", min=1, show_default=True)
]
Plot = Annotated[
    str | None, value("FILE", "Draw quality against time: FILE.png, .svg or .pdf.", "--plot")
]


def chosen_checkpoints(names: Sequence[str] | None, backend: str) -> list[Path]:
    """The folders that are asked for: by option, else GENTOOL_CHECKPOINT, else the shipped one."""
    from gentool.checkpoint.load import find_checkpoint

    folders = [
        find_checkpoint(name, backend)
        for name in names or (os.environ.get("GENTOOL_CHECKPOINT") or None,)
    ]
    console.info("checkpoint " + ", ".join(str(folder) for folder in folders))
    return folders


def numbers(option: str, text: str) -> list[int]:
    """ "5,10" as numbers, the least first. Raises UsageError."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise UsageError(f"--{option} takes numbers such as 5,10,25, got {text!r}")
    return sorted(set(found))


def checked_plot(plot: str | None) -> None:
    """Raise UsageError if no plot can be written there."""
    if plot:
        from gentool.render.plots import check_plot_target

        check_plot_target(plot)


def run(
    jobs: "Sequence[tuple[Timed, str | None, str]]",
    least: int,
    repeats: int,
    plot: str | None,
    as_json: bool,
) -> None:
    """Measure each request by its metric and tell of it; those of `least` steps are warmed up
    for. The third of a job is the library that draws."""
    from gentool.evaluate.bench import bench, warm_up

    records = []
    for number, (request, metric, by) in enumerate(jobs):
        if request.settings.steps == least:
            warm_up(request)
        record = bench(request, metric, repeats, by)
        records.append(record)
        if as_json:
            console.record(record)
        else:
            row(record, first=number == 0)
    if plot:
        draw(records, plot)


def plot_records(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="What --json printed.")],
    out: Annotated[str, value("FILE", "FILE.png, .svg or .pdf.", "--out", "-o")],
) -> None:
    """Lay measurements over each other: quality against time.

    \b
    gentool bench ddpm --json > ddpm.jsonl
    gentool bench mvtm -c runs/mine --json > mvtm.jsonl
    gentool bench plot ddpm.jsonl mvtm.jsonl --out speed.png
    """
    from gentool.render.plots import DRAWN
    from gentool.streams import stream_lines

    checked_plot(out)
    records = []
    for file in files:
        for number, line in enumerate(stream_lines(file), start=1):
            try:
                record = json.loads(line)
                assert record.keys() >= DRAWN and isinstance(record["seconds_per_sample"], float)
            except (ValueError, AttributeError, AssertionError):
                raise BadDataError(
                    f"{file} line {number} is no record of bench", "gentool bench ... --json"
                ) from None
            records.append(record)
    draw(records, out)


def draw(records: list[dict[str, Any]], target: str) -> None:
    """Plot records to a file."""
    from gentool.render.plots import quality_against_time

    quality_against_time(records, Path(target))
    console.info(f"plot {target}")


def row(record: dict[str, Any], first: bool) -> None:
    """Print a record as a line of the table, whose head comes before the first."""
    from gentool.render.plots import way

    if first:
        console.result(
            f"{'checkpoint':20} {'way':12} {'steps':>5} {'s/sample':>9} {'spread':>15} "
            f"{'calls':>5} {'MB':>6}  quality"
        )
    quality = "-"
    if record["quality"] is not None:
        spread = record["quality_deviation"]
        quality = f"{record['metric']} {record['quality']:.4f}" + (
            f" ± {spread:.4f}" if spread is not None else ""
        )
    name = Path(record["checkpoint"]).name
    if record["library"] != "gentool":
        name = f"{record['library']}: {name}"
    console.result(
        f"{name:20.20} {way(record) or '-':12} "
        f"{record['steps']:5} {record['seconds_per_sample']:9.4f} "
        f"{record['seconds_least']:7.4f}-{record['seconds_most']:.4f} "
        f"{round(record['calls_per_sample']):>5} {record['peak_memory_mb']:6.0f}  {quality}"
    )
