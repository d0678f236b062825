"""Text that comes line by line, from a file or a pipe. Imports no torch."""

import os
import select
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

from gentool.errors import BadDataError, missing_file

PAUSE = 0.05  # seconds
PIECE = 1 << 16  # bytes read at a time at the most


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
    return (line for line in arriving_lines(where) if line is not None)


def arriving_lines(where: str) -> Iterator[str | BadDataError | None]:
    """As `stream_any_lines`, and None where no other line has come for PAUSE seconds: whoever
    collects lines should go on with those there are. A file has no pauses."""
    if where != "-" and (not Path(where).exists() or Path(where).is_dir()):
        raise missing_file(Path(where))
    with nullcontext(sys.stdin.buffer) if where == "-" else open(where, "rb") as file:
        number = 0
        for line in _split(_pieces(file)):
            if line is None:
                yield None
                continue
            number += 1
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                yield BadDataError("not UTF-8")
                continue
            yield text.removesuffix("\n").removesuffix("\r")


def waits() -> bool:
    """Whether standard input is a file, or a pipe in which something is: never to be waited for."""
    return stat.S_ISREG(_mode()) or (is_pipe() and _ready(sys.stdin.buffer))


def is_pipe() -> bool:
    """Whether standard input is one."""
    return stat.S_ISFIFO(_mode())


def _mode() -> int:
    """What kind of file standard input is; 0 for none."""
    try:
        return os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # no descriptor
        return 0


def _pieces(file: BinaryIO) -> Iterator[bytes | None]:
    """What there is to read, as it comes; None where nothing has come for a while."""
    while True:
        if not _ready(file):
            yield None
        piece = file.read1(PIECE)  # type: ignore[attr-defined]  # waits, but not for all of it
        if not piece:
            return
        yield piece


def _ready(file: BinaryIO) -> bool:
    try:
        return bool(select.select([file], [], [], PAUSE)[0])
    except (OSError, ValueError):  # nothing that a system can wait for, so nothing that comes late
        return True


def _split(pieces: Iterable[bytes | None]) -> Iterator[bytes | None]:
    """The lines of `pieces`, with their ends; None as it comes."""
    begun: list[bytes] = []  # a line of which the end has not come
    for piece in pieces:
        if piece is None:
            yield None
            continue
        *lines, rest = piece.split(b"\n")
        for line in lines:
            yield b"".join([*begun, line, b"\n"])
            begun = []
        if rest:
            begun.append(rest)
    if begun:
        yield b"".join(begun)


def clean(text: str) -> str:
    """`text` with U+FFFD for lone surrogates, which no UTF-8 holds."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def one_line(text: str) -> str:
    """The text as a line of its own: what a model writes may have ends of lines in it."""
    return " ".join(text.split("\n"))


def place(where: str) -> str:
    """What messages call it."""
    return "standard input" if where == "-" else where
