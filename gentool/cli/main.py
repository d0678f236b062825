"""The verbs, and the one place that turns failures into exit codes."""

import io
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import typer

from gentool import __version__
from gentool.cli import data, decode, demo, doctor, evaluate, inspect, listing, sample, train
from gentool.cli.bench import app as bench
from gentool.cli.commands import add_command
from gentool.cli.console import console
from gentool.cli.convert import exporting, importing
from gentool.cli.distill import distill
from gentool.cli.failures import report
from gentool.cli.help import CONTEXT, Group
from gentool.cli.tokenizer import app as tokenizer

# What Typer raises for a wrong command line. It vendors Click, so `import click` would be another
# library's classes; the base of an exported class is the right one in either case.
_TyperUsageError: Any = typer.BadParameter.__mro__[1]

SORT = (
    "demo train sample decode eval bench distill data tokenizer list inspect import export doctor"
).split()


class Verbs(Group):
    """The verbs in the order in which a newcomer needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=SORT.index)


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
)
_VERBS = {"train": train.app, "sample": sample.app, "decode": decode.app, "eval": evaluate.app}
_MORE = {"bench": bench, "data": data.app, "import": importing, "export": exporting}
for _verb, _app in (_VERBS | _MORE | {"tokenizer": tokenizer}).items():
    app.add_typer(_app, name=_verb)
add_command(app, "distill", distill)
add_command(app, "list", listing.list_things)
add_command(app, "inspect", inspect.inspect)
add_command(app, "doctor", doctor.doctor)
add_command(app, "demo", demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        console.result(f"gentool {__version__}")
        raise typer.Exit()


@app.callback()
def top(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, metavar=" ", help="Print the version."
    ),
) -> None:
    """Generators that refine a whole output at once, step by step.

    \b
    gentool demo                      the tour, in a few minutes
    gentool sample ddpm -n 16         pictures from the shipped checkpoint
    gentool train ddpm                train the built-in recipe
    gentool list                      recipes, checkpoints, samplers

    \b
    Results go to standard output, all else to standard error. Exit codes:
    0 done   1 the machine refused, or a bug   2 usage   3 not found
    4 bad data or checkpoint   5 training became non-finite   6 out of memory
    7 a gate failed   130 interrupted   141 reader gone   143 ended by SIGTERM
    """


def _typed(parameter: Any) -> str:
    """What was given for an option that Typer refuses, for its message; it does not say."""
    names = tuple(getattr(parameter, "opts", ()))
    for word, after in pairwise([*console.arguments, ""]):
        if word in names:
            return f" ({word} {after})"
        if names and word.startswith(tuple(f"{name}=" for name in names)):
            return f" ({word})"
    variable = getattr(parameter, "envvar", None)
    if isinstance(variable, str) and variable in os.environ:
        return f" ({variable}={os.environ[variable]})"
    return ""


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    console.arguments = arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Whatever the locale says, as for input; names of files may be of any bytes.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        code = app(list(arguments), prog_name="gentool", standalone_mode=False)
        sys.stdout.flush()
        if code == 130:  # Typer makes that of a Ctrl-C
            console.error("interrupted")
        return code if isinstance(code, int) else 0
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code == 143:  # SIGTERM
            console.error("terminated")
            return 143
        # Typer makes an exit of a broken pipe that a command ran into.
        if not isinstance(error.__context__ or error, BrokenPipeError):
            raise
        _give_up_output()  # the reader has gone
        return 141
    except (KeyboardInterrupt, typer.Abort):
        console.error("interrupted")
        return 130
    except _TyperUsageError as error:
        path = error.ctx.command_path if getattr(error, "ctx", None) else "gentool"
        if message := error.format_message():  # empty: a verb alone, whose help is printed
            console.error(message + _typed(getattr(error, "param", None)), f"{path} --help")
        return 2
    except Exception as error:
        if console.debug:
            raise
        code = report(error)
        try:
            sys.stdout.flush()
        except OSError:  # a full disk, say, which the error may be about
            _give_up_output()
        return code
    finally:
        console.stop()  # a bar hides the cursor


def _give_up_output() -> None:
    """What could not be written is not tried again: Python flushes at exit, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
