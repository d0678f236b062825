"""What `gentool bench` found: the lines of a table, and `gentool bench plot`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.cli.console import console
from gentool.cli.options import value
from gentool.errors import BadDataError


def plot_records(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="What --json printed.")],
    out: Annotated[str, value("FILE", "FILE.png, .svg or .pdf.", "--out", "-o")],
) -> None:
    """Lay measurements over each other: quality against time.

    \b
    gentool bench ddpm --json > ddpm.jsonl
    gentool bench diffusion-lm -c runs/mine --json > text.jsonl
    gentool bench plot ddpm.jsonl text.jsonl --out speed.png
    """
    from gentool.render.plots import check_plot_target
    from gentool.streams import stream_lines

    check_plot_target(out)
    records = []
    for file in files:
        for number, line in enumerate(stream_lines(file), start=1):
            try:
                record = json.loads(line)
                assert isinstance(record["seconds_per_sample"], float) and record["steps"]
            except (ValueError, KeyError, TypeError, AssertionError):
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
    if first:
        console.result(
            f"{'checkpoint':20} {'sampler':9} {'steps':>5} {'s/sample':>9} {'spread':>15} "
            f"{'calls':>5} {'MB':>6}  quality"
        )
    quality = "-"
    if record["quality"] is not None:
        spread = record["quality_deviation"]
        quality = f"{record['metric']} {record['quality']:.4f}" + (
            f" ± {spread:.4f}" if spread is not None else ""
        )
    calls = record["calls_per_sample"]
    name = Path(record["checkpoint"]).name
    if record["library"] != "gentool":
        name = f"{record['library']}: {name}"
    console.result(
        f"{name:20.20} {record['sampler'] or '-':9} "
        f"{record['steps']:5} {record['seconds_per_sample']:9.4f} "
        f"{record['seconds_least']:7.4f}-{record['seconds_most']:.4f} "
        f"{'-' if calls is None else round(calls):>5} {record['peak_memory_mb']:6.0f}  {quality}"
    )
