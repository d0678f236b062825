"""Text that comes line by line, from a file or a pipe. Imports no torch."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from gentool.errors import BadDataError, NotFoundError


def stream_lines(where: str) -> Iterator[str]:
    """The lines of a UTF-8 file, or of standard input (`-`), each as soon as it is there.

    Raises NotFoundError or BadDataError.
    """
    for number, line in enumerate(stream_any_lines(where), start=1):
        if isinstance(line, BadDataError):
            raise BadDataError(f"{place(where)} line {number} is {line}")
        yield line


def stream_any_lines(where: str) -> Iterator[str | BadDataError]:
    """As `stream_lines`, but in place of a line that cannot be read comes what is wrong with it."""
    if where != "-" and not Path(where).is_file():
        raise NotFoundError(f"no file {where}")
    with nullcontext(sys.stdin.buffer) if where == "-" else open(where, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                yield BadDataError("not UTF-8")
                continue
            yield text.removesuffix("\n").removesuffix("\r")


def place(where: str) -> str:
    """What messages call it."""
    return "standard input" if where == "-" else where
