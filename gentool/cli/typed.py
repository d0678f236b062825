"""Commands as a user would type them, for the tour."""

import io
import shlex
import time
from contextlib import redirect_stdout
from typing import TextIO

from gentool.cli.console import console
from gentool.errors import BadCheckpointError, BadDataError, NotFoundError, UsageError


def typed(
    commands: list[tuple[str, float]], *arguments: str, printed: TextIO | None = None
) -> bool:
    """Run a command as if it were typed, and add it and its seconds to `commands`; what it prints
    goes to `printed`. False where it failed, as where no checkpoint is shipped."""
    from gentool.cli.main import app

    console.arguments, command = arguments, shlex.join(["gentool", *arguments])
    console.info(f"$ {command}")
    quiet, began = ["--quiet"] if console.quiet else [], time.monotonic()
    try:
        with redirect_stdout(printed or io.StringIO()):
            if app([*arguments, *quiet], prog_name="gentool", standalone_mode=False) == 130:
                raise KeyboardInterrupt  # of which Typer makes that
        return True
    except (NotFoundError, BadCheckpointError, BadDataError, UsageError) as error:
        console.warn(f"left out: {error}\n")
        return False
    finally:
        commands.append((command, time.monotonic() - began))
