"""Options that several verbs share, declared once, and short ways to declare others."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from gentool.resources import shipped

MOST = 10**9  # of anything that is counted: more is a slip of the finger


def starting_with(names: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    """A completion that offers the names beginning with what was typed."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


checkpoints = starting_with(lambda: list(shipped("checkpoints")))
recipes = starting_with(lambda: list(shipped("recipes")))


def value(metavar: str, help: str, *names: str, **extra: Any) -> Any:
    """An option whose default its help tells in words (rich takes square brackets for markup)."""
    extra.setdefault("show_default", False)
    if metavar in ("DIR|NAME", "CHECKPOINT"):
        extra.setdefault("autocompletion", checkpoints)
    return typer.Option(*names, metavar=metavar, help=help, show_envvar=False, **extra)


def count(help: str, **extra: Any) -> Any:
    """`--num N`, how many of something; MOST at the most."""
    return value("N", help, "--num", "-n", min=1, **extra)


def flag(name: str, help: str) -> Any:
    """An option without a value."""
    return typer.Option(name, metavar=" ", help=help, show_default=False)


Checkpoint = Annotated[
    str | None,
    value(
        "DIR|NAME",
        "Checkpoint folder, or the name of a shipped one. (default: BACKEND-scenes)",
        *("--checkpoint", "-c"),
        envvar="GENTOOL_CHECKPOINT",
    ),
]
Assign = Annotated[
    list[str] | None,
    value("KEY=VALUE", "Change a setting, e.g. train.batch_size=32; repeatable.", "--set"),
]
Seed = Annotated[
    int,
    value(
        "N", "Seed of all draws.", "--seed", "-s", envvar="GENTOOL_SEED", min=0, show_default=True
    ),
]
Device = Annotated[
    str,
    value(
        "auto|cpu|cuda|mps",
        "Where to compute.",
        "--device",
        envvar="GENTOOL_DEVICE",
        show_default=True,
    ),
]
Precision = Annotated[
    str,
    value(
        "auto|fp32|bf16",
        "Arithmetic. auto: bf16 on a GPU that has it.",
        "--precision",
        envvar="GENTOOL_PRECISION",
        show_default=True,
    ),
]
BatchSize = Annotated[
    int,
    value("N", "Samples computed at a time.", "--batch-size", "-b", min=1, show_default=True),
]
Json = Annotated[bool, flag("--json", "One JSON record per line.")]
