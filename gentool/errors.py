"""What can go wrong for a user, each with its exit code (the table stands in `gentool --help`).

An error is one line that says what failed and with which value, and a hint that says what to
type next. `gentool.cli.failures` prints it, and what other libraries raise, and returns the code.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path


class GentoolError(Exception):
    """A failure the user can act on. `hint` is the second line: what to do about it."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class MachineError(GentoolError):
    """The machine refused: disk full, permission denied, no network."""


class UsageError(GentoolError):
    """The command itself is wrong: an option, a value, an output folder already in use."""

    exit_code = 2


class NotFoundError(GentoolError):
    """A file, checkpoint, recipe or state that was named does not exist."""

    exit_code = 3


class BadDataError(GentoolError):
    """Data that cannot be used; the message names file and line or key."""

    exit_code = 4


class BadCheckpointError(GentoolError):
    """A checkpoint that is damaged, foreign or of another backend."""

    exit_code = 4


class NonFiniteError(GentoolError):
    """Training produced a NaN or an infinity."""

    exit_code = 5


class GateError(GentoolError):
    """A figure did not pass its `--gate`."""

    exit_code = 7


class Interrupted(GentoolError):
    """SIGINT: what could be saved was saved."""

    exit_code = 130


class Terminated(GentoolError):
    """SIGTERM: what could be saved was saved."""

    exit_code = 143


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The hint for an unknown `word`: the known name closest to it, with `prefix` before it, else
    all known names."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {prefix + close[0]!r}?" if close else f"known: {', '.join(known)}"


def missing_file(path: Path) -> NotFoundError:
    """The error for a `path` that is no file: its hint is the nearest name in the same folder."""
    if path.is_dir():
        return NotFoundError(f"{path} is a folder", "give a file in it")
    if not path.parent.is_dir():
        return NotFoundError(f"no such file: {path}", f"there is no folder {path.parent}")
    close = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()])
    hint = f"did you mean {path.with_name(close[0])}?" if close else ""
    return NotFoundError(f"no such file: {path}", hint)
