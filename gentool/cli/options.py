"""Options that several verbs share, declared once."""

from collections.abc import Callable
from typing import Annotated

import typer

from gentool.resources import shipped


def starting_with(names: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    """A completion that offers the names beginning with what was typed."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        "-c",
        metavar="DIR|NAME",
        envvar="GENTOOL_CHECKPOINT",
        show_envvar=False,
        help="Checkpoint folder, or the name of a shipped one. (default: BACKEND-scenes)",
        autocompletion=starting_with(lambda: list(shipped("checkpoints"))),
        show_default=False,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        "-s",
        metavar="N",
        envvar="GENTOOL_SEED",
        show_envvar=False,
        help="Seed of all draws.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|mps",
        envvar="GENTOOL_DEVICE",
        show_envvar=False,
        help="Where to compute.",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="auto|fp32|bf16",
        envvar="GENTOOL_PRECISION",
        show_envvar=False,
        help="Arithmetic. (default: fp32 on a CPU, else auto)",
        show_default=False,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option("--batch-size", "-b", metavar="N", min=1, help="Samples computed at a time."),
]
Json = Annotated[bool, typer.Option("--json", metavar=" ", help="One JSON record per line.")]
