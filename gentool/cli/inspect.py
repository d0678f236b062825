"""`gentool inspect CHECKPOINT`."""

from pathlib import Path
from typing import Annotated

import typer

from gentool.cli import options
from gentool.cli.console import console
from gentool.cli.tokenize import facts as tokenizer_facts
from gentool.errors import NotFoundError
from gentool.resources import shipped
from gentool.settings import flatten


def inspect(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="DIR|NAME",
            help="A run's folder, or the name of a shipped checkpoint.",
            autocompletion=options.starting_with(lambda: list(shipped("checkpoints"))),
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Describe a checkpoint and verify its weights and states.

    \b
    gentool inspect ddpm-scenes
    gentool inspect runs/mine --json
    """
    from gentool.checkpoint.config import read_config
    from gentool.checkpoint.state import read_state, states
    from gentool.checkpoint.weights import read_weights

    folder = shipped("checkpoints").get(checkpoint, Path(checkpoint))
    if not folder.exists():
        raise NotFoundError(f"no checkpoint {checkpoint!r}", "gentool list checkpoints")
    run_config = read_config(folder)
    tensors, step, tokenizer = read_weights(folder, run_config.config)
    facts = {
        "folder": str(folder),
        "backend": run_config.backend,
        "recipe": run_config.recipe,
        "format": run_config.format_version,
        "written by": f"gentool {run_config.gentool_version}",
        "step": step,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "verified": "weights match their SHA-256 and config.json",
        **({"tokenizer": tokenizer_facts(tokenizer)} if tokenizer else {}),
        "states": [read_state(place).step for place in states(folder)],
        "data": run_config.data,
        "metrics": run_config.metrics,
        "config": run_config.config,
    }
    if as_json:
        console.record(facts)
        return
    for name, value in flatten(facts).items():
        console.result(f"{name:28} {value}")
