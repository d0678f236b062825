"""How commands are registered: a function's parameters are its options, and a section of settings
adds one option per field, so that a backend's own options are declared once, by the backend."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.cli.console import console
from gentool.cli.help import CONTEXT, Command, joined
from gentool.cli.options import MOST, starting_with
from gentool.errors import UsageError
from gentool.registry import about

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        envvar="GENTOOL_QUIET",
        show_envvar=False,
        metavar=" ",
        help="Results, warnings and errors only.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", hidden=True, help="Tracebacks.")]


def add_command(
    app: typer.Typer,
    name: str,
    function: Callable[..., None],
    *,
    section: type | None = None,
    but: Collection[str] = (),
    absent: Collection[str] = (),
    panel: str = "",
    **fixed: Any,
) -> None:
    """Register `function`, its docstring the help, its parameters the options.

    section: a dataclass of settings; those the user gives arrive as the dictionary `settings`.
    but: its fields that are no options here.
    absent: parameters that are no options here, and keep their defaults.
    fixed: parameters that are bound here and are no options (the backend's name).
    """
    hidden = {"settings", *absent, *fixed}
    parameters = [p for n, p in inspect.signature(function).parameters.items() if n not in hidden]
    fields = [p for p in _options(section, panel) if p.name not in but] if section else []
    extra = [_keyword("quiet", Quiet, False), _keyword("debug", Debug, False)]

    def run(quiet: bool, debug: bool, **values: Any) -> None:
        console.quiet = quiet
        console.debug = debug
        for parameter in parameters:
            _check_given(parameter, values[parameter.name])
        if section:
            given = {p.name: values.pop(p.name) for p in fields}
            values["settings"] = {key: value for key, value in given.items() if value is not None}
        function(**values, **fixed)

    signature = inspect.Signature(
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters] + fields + extra
    )
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {n: p.annotation for n, p in signature.parameters.items()}
    text = inspect.getdoc(function) or ""
    told = {"about": about(fixed["backend"])} if "{about}" in text else {}
    for key, value in (fixed | told).items():
        text = text.replace("{" + key + "}", str(value))
    register = app.command(name, cls=Command, help=text, context_settings=CONTEXT)
    register(run)


def _check_given(parameter: inspect.Parameter, value: Any) -> None:
    """Raise UsageError for an empty name: most likely that of a shell variable that is not set,
    and not to be taken for no option at all. Also for a number of things that no one has."""
    if parameter.name == "num" and (value or 0) > MOST:
        raise UsageError(f"--num {value} is more than {MOST}")
    empty = value in ("", Path("")) or (isinstance(value, list) and "" in value)
    if not empty or value == parameter.default or parameter.name in MAY_BE_EMPTY:
        return
    told = typing.get_args(parameter.annotation)[1]  # what typer was told of it
    # In an annotation typer takes the first of an option's names for its default.
    given = [str(n) for n in (told.default, *(told.param_decls or ())) if str(n).startswith("-")]
    names = given or ["--" + parameter.name.replace("_", "-")]
    what = names[0]
    if isinstance(told, typer.models.ArgumentInfo):
        names, what = [], str(told.metavar)
    if value == Path(".") and not _typed_empty(names, console.arguments):
        return
    raise UsageError(f"{what} is empty", "give it a value, or leave it out")


def _typed_empty(names: Sequence[str], typed: Sequence[str]) -> bool:
    """Whether it was an empty text, and not `.`, which is the same path. names: of an option, or
    none."""
    if not names:
        return "" in typed
    return any(f"{name}=" in typed or (name, "") in pairwise(typed) for name in names)


def _options(section: type, panel: str) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(section)
    options = []
    for field in dataclasses.fields(section):
        choices = field.metadata["choices"]
        metavars = {int: "N", float: "X", str: "TEXT", bool: " "}
        option = typer.Option(
            "--" + field.name.replace("_", "-"),
            help=field.metadata["help"][0].upper() + field.metadata["help"][1:] + ".",
            metavar=joined(choices) or metavars[hints[field.name]],
            autocompletion=starting_with(partial(list, choices)) if choices else None,
            rich_help_panel=panel,
            show_default=False,
        )
        options.append(_keyword(field.name, Annotated[hints[field.name] | None, option], None))
    return options


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


MAY_BE_EMPTY = ("prompts", "classes")
"""Parameters that an empty text says something to: any picture, or no class of that name."""
