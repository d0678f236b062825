"""`gentool inspect`: checkpoints, the curves of runs, and traces."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.cli import options
from gentool.cli.console import console
from gentool.cli.options import value
from gentool.cli.tokenize import facts as tokenizer_facts
from gentool.errors import NotFoundError, UsageError
from gentool.resources import checkpoint_path
from gentool.settings import flatten


def inspect(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|NAME|TRACE...",
            help="A run's folder, the name of a shipped checkpoint, or a trace, FILE.jsonl.",
            autocompletion=options.checkpoints,
        ),
    ],
    plot: Annotated[
        str | None,
        value(
            "FILE",
            "Draw instead: the curves of runs, FILE.png, .svg or .pdf; a trace, as --trace does.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Describe checkpoints and verify their weights and states; draw curves and traces.

    \b
    gentool inspect ddpm-scenes
    gentool inspect runs/mine --json
    gentool inspect runs/mine runs/other --plot curves.png
    gentool inspect how.jsonl --plot how.gif
    """
    places = [checkpoint_path(name) for name in checkpoints]
    for name, place in zip(checkpoints, places, strict=True):
        if not place.exists():
            raise NotFoundError(f"no checkpoint {name!r}", "gentool list checkpoints")
    traces = [place for place in places if place.is_file() and place.suffix == ".jsonl"]
    if plot and traces:
        if len(places) > 1:
            raise UsageError("--plot draws one trace at a time")
        _draw_trace(traces[0], plot, as_json)
    elif plot:
        _draw_curves(dict(zip(checkpoints, places, strict=True)), plot, as_json)
    else:
        for number, place in enumerate(places):
            _print(_trace_facts(place) if place in traces else _facts(place), number, as_json)


def _print(facts: dict[str, Any], number: int, as_json: bool) -> None:
    if as_json:
        console.record(facts)
        return
    if number:
        console.result("")
    for name, fact in flatten(facts).items():
        console.result(f"{name:28} {fact}")


def _facts(folder: Path) -> dict[str, Any]:
    """What there is to know of a checkpoint."""
    from gentool.checkpoint.config import read_config, run_of
    from gentool.checkpoint.state import read_sampling, read_state, states
    from gentool.training.run import Log

    run_config = read_config(folder)
    tensors, step, tokenizer = read_sampling(folder, run_config.config)
    kept = [read_state(place).step for place in states(run_of(folder))]
    losses = Log(run_of(folder)).validated()
    return {
        "folder": str(folder),
        "backend": run_config.backend,
        "recipe": run_config.recipe,
        "format": run_config.format_version,
        "written by": f"gentool {run_config.gentool_version}",
        "step": step,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "verified": "weights match their SHA-256 and config.json",
        **({"tokenizer": tokenizer_facts(tokenizer)} if tokenizer else {}),
        "states": kept,
        "validation loss": {str(step): losses[step] for step in kept if step in losses},
        "data": run_config.data,
        "metrics": run_config.metrics,
        "config": run_config.config,
    }


def _trace_facts(path: Path) -> dict[str, Any]:
    from gentool.render.records import read

    trace = read(path)
    return {"trace": str(path), **trace.facts, "samples": list(trace.samples())}


def _draw_curves(runs: dict[str, Path], target: str, as_json: bool) -> None:
    from gentool.checkpoint.config import run_of
    from gentool.render.plots import check_plot_target, curves
    from gentool.training.run import Log

    check_plot_target(target)
    runs = {name: run_of(place) for name, place in runs.items()}
    for name, folder in runs.items():
        if not (folder / "log.jsonl").is_file():
            raise NotFoundError(f"{name} has no log.jsonl, so there are no curves")
    curves({name: Log(folder).records() for name, folder in runs.items()}, Path(target))
    _tell_file(target, as_json)


def _draw_trace(path: Path, target: str, as_json: bool) -> None:
    from gentool.render.records import read
    from gentool.render.traces import check_trace_target, write_trace

    check_trace_target(target, "--plot")
    trace = read(path)
    if target == "-":
        from gentool.render.terminal import replay

        replay(trace, sys.stderr)
        return
    if warning := write_trace(trace, Path(target)):
        console.warn(warning)
    _tell_file(target, as_json)


def _tell_file(target: str, as_json: bool) -> None:
    if as_json:
        console.record({"path": target})
    else:
        console.result(target)
