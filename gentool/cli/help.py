"""How help looks."""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
WIDE = 20  # letters that the column of values has at 80 columns


class Group(TyperGroup):
    """Commands whose help does not tell the type of `--help`, as Typer's does."""

    def get_help_option(self, ctx: Any) -> Any:
        return _without_type(super().get_help_option(ctx))


class Command(TyperCommand):
    """A command, likewise."""

    def get_help_option(self, ctx: Any) -> Any:
        return _without_type(super().get_help_option(ctx))


def _without_type(option: Any) -> Any:
    if option:
        option.metavar = " "
    return option


def group(help: str) -> typer.Typer:
    """A verb with sub-commands; alone it shows its help."""
    return typer.Typer(
        cls=Group,
        help=help,
        no_args_is_help=True,
        rich_markup_mode="rich",
        context_settings=CONTEXT,
    )


def joined(choices: tuple[str, ...]) -> str:
    """`a|b`, or `a | b` where help would break it within a word."""
    close = "|".join(choices)
    return close if len(close) <= WIDE else " | ".join(choices)
