"""What several verbs read of the command line and of the environment."""

import os

from gentool.errors import UsageError
from gentool.settings import Tree, merge, parse_assignment


def environment() -> Tree:
    """What GENTOOL_SEED and GENTOOL_PRECISION set over the recipe; a resumed run has its own.
    Raises UsageError."""
    chosen: Tree = {}
    if seed := os.environ.get("GENTOOL_SEED"):
        if not (seed.isascii() and seed.isdecimal()):
            raise UsageError(f"GENTOOL_SEED is a whole number from 0 on, got {seed!r}")
        chosen["seed"] = int(seed)
    if precision := os.environ.get("GENTOOL_PRECISION"):
        if precision not in ("auto", "fp32", "bf16"):
            raise UsageError(f"GENTOOL_PRECISION is auto, fp32 or bf16, got {precision!r}")
        chosen["precision"] = precision
    return {"train": chosen}


def assigned(assign: list[str] | None) -> Tree:
    """What `--set` says, each time that it was given. Raises UsageError."""
    tree: Tree = {}
    for text in assign or []:
        tree = merge(tree, parse_assignment(text))
    return tree


def data_tree(spec: str | list[str], assign: list[str] | None) -> Tree:
    """A [data] section: what the data are, and `--set`, with or without the section's name."""
    return {"spec": spec} | assigned([text.removeprefix("data.") for text in assign or []])


def parse_time(text: str) -> float:
    """`90s`, `20m`, `3h` or plain seconds, in seconds. Raises UsageError."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    number = text[:-1] if unit else text
    try:
        seconds = float(number) * (unit or 1)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--max-time takes a time such as 90s, 20m or 3h, got {text!r}")
    return seconds
