"""How `gentool decode` writes texts: as many lines for each input line, in order, as they come."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

from gentool.cli.console import console
from gentool.cli.options import value
from gentool.errors import BadDataError, UsageError
from gentool.streams import one_line

SOME = 5
Answers = Iterable[tuple[int, list[Any] | BadDataError]]
OnError = Annotated[
    str, value("skip|stop", "A line that cannot be used: an empty line for it, or the end.")
]


def check_on_error(on_error: str) -> None:
    """Raise UsageError for an unknown choice."""
    if on_error not in ("skip", "stop"):
        raise UsageError(f"--on-error is skip or stop, got {on_error!r}")


class Unread:
    """Tells of lines that a model does not read in full: of the first SOME, then how many."""

    def __init__(self) -> None:
        self.n = 0

    def tell(self, number: int, why: str = " has words that this model does not know") -> None:
        """Of line `number`, from 1."""
        self.n += 1
        if self.n <= SOME:
            console.warn(f"line {number}{why}")

    def rest(self) -> None:
        """At the end."""
        if self.n > SOME:
            console.warn(f"{self.n} lines are not read in full")


def tell_waiting(inputs: str | None) -> None:
    """Say that it is the user's turn, where input is typed on a terminal."""
    if inputs in (None, "-") and sys.stdin is not None and sys.stdin.isatty():
        console.info("reading lines from the terminal; Ctrl-D ends them")


@contextmanager
def lines_to(out: str) -> Iterator[TextIO]:
    """`gentool.outputs.text_file`; says where its lines are if it does not become whole."""
    from gentool.outputs import part_of, text_file

    try:
        with text_file(out) as file:
            yield file
    except BaseException:
        if out != "-" and (part := part_of(Path(out))).exists():
            console.warn(f"the lines so far are in {part}")
        raise


def write_answers(
    answers: Answers,
    record: Callable[[int, Any], dict[str, Any]],
    out: str,
    *,
    num: int,
    on_error: str,
    as_json: bool,
) -> str:
    """Write `num` lines for each of `answers`: (the input line's number from 0, what there is for
    it, or why there is nothing).

    record(number, answer): what --json prints; its "text" is the line. The answer is None where
    there is none, and an error where the line could not be used: then, with on_error `stop`, raises
    BadDataError. Returns what was skipped, in words, for the end of all; "" if nothing was.
    """
    bad = n = 0
    with lines_to(out) as file:
        for number, found in answers:
            if isinstance(found, BadDataError):
                message = f"line {number + 1}: {found}"
                if on_error == "stop":
                    raise BadDataError(message, found.hint)
                console.warn(f"{message}; {found.hint}" if found.hint else message)
                bad, found = bad + 1, [found] * num
            console.make_way()
            for answer in found or [None] * num:
                told = record(number, answer)
                line = json.dumps(told, ensure_ascii=False) if as_json else one_line(told["text"])
                file.write(line + "\n")
            file.flush()
            n = number + 1
            console.progress(n, 0, {"lines": "done"})
    console.stop()
    return f"{bad} of {n} lines skipped: empty lines stand in" if bad else ""
