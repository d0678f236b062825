"""The one place that writes to the user: results on standard output, all else on standard error.

Of several processes (`accelerate launch`, `torchrun`) the main one speaks, except for errors: of
those the first is told, whichever process meets it.
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from gentool.cli.pace import Pace
from gentool.cli.processes import first_to_fail, rank, several

EVERY = 5.0  # seconds between progress lines where standard error is not a terminal


class Console:
    """What a command says. `quiet` keeps results, warnings and errors, and drops the rest."""

    def __init__(self) -> None:
        self.quiet = False
        self.debug = False
        self.arguments: Sequence[str] = ()  # what was typed after gentool
        self.playing = False  # a trace is where the bar would be
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()
        self._pace = Pace()

    def result(self, line: str) -> None:
        """A line of the command's result."""
        if rank():
            return
        self.make_way()
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def record(self, record: dict[str, Any]) -> None:
        """A result under --json: one record a line."""
        self.result(json.dumps(record, ensure_ascii=False))

    def info(self, message: str) -> None:
        """Something worth a line while working."""
        if not self.quiet:
            self._line(message)

    def warn(self, message: str) -> None:
        """Something the user should know, quiet or not."""
        self._line(f"warning: {message}")

    def error(self, message: str, hint: str = "") -> None:
        """Why the command failed, and what to do about it."""
        self.stop()
        if several() and not first_to_fail():
            return
        where = f"process {rank()}: " if rank() else ""
        sys.stderr.write(f"error: {where}{_one_line(message)}\n" + (f"  {hint}\n" if hint else ""))

    def progress(self, done: int, total: int, fields: dict[str, str]) -> None:
        """A bar on a terminal, a line every few seconds elsewhere, with the time left. A total of
        0 is not known."""
        if self.quiet or self.playing or rank():
            return
        if left := self._pace.left(done, total):
            fields = fields | {"left": left}
        if sys.stderr.isatty():
            self._draw_bar(done, total, fields)
        elif time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            text = "  ".join(f"{name} {value}" for name, value in fields.items())
            self._line(f"{done}/{total}  {text}" if total else f"{done}  {text}")

    def denoising(self, done: int, total: int) -> None:
        """Progress of samples."""
        self.progress(done, total, {"denoising": "steps"})

    def decoded(self, done: int, total: int) -> None:
        """Progress of sentences."""
        self.progress(done, total, {"decoded": "sentences"})

    def make_way(self) -> None:
        """Take the progress bar away where results go to a terminal too."""
        if self._bar is not None and sys.stdout.isatty():
            self.stop()

    def stop(self) -> None:
        """Take the progress bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, message: str) -> None:
        if rank():
            return
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            sys.stderr.write(message + "\n")
            sys.stderr.flush()

    def _draw_bar(self, done: int, total: int, fields: dict[str, str]) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        if self._bar is None:
            self._bar = Progress(
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                console=RichConsole(stderr=True),
                transient=True,
                redirect_stdout=False,  # else results would go where the bar is
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=total or None, text="")
        text = "  ".join(f"[dim]{name}[/] {value}" for name, value in fields.items())
        self._bar.update(self._task, completed=done, total=total or None, text=text)
        if done >= total > 0:
            self.stop()


def _one_line(text: str) -> str:
    return " ".join(text.split())


console = Console()
