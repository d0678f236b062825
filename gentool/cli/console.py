"""The one place that writes to the user: results on standard output, all else on standard error."""

import json
import os
import sys
import time
from typing import Any

EVERY = 5.0  # seconds between progress lines where standard error is not a terminal


class Console:
    """What a command says. `quiet` keeps results and errors, and drops the rest."""

    def __init__(self) -> None:
        self.quiet = False
        self.debug = bool(os.environ.get("GENTOOL_DEBUG"))
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()

    def result(self, line: str) -> None:
        """A line of the command's result."""
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
        sys.stderr.write(f"error: {_one_line(message)}\n" + (f"  {hint}\n" if hint else ""))

    def progress(self, done: int, total: int, fields: dict[str, str]) -> None:
        """A bar on a terminal, a line every few seconds elsewhere."""
        if self.quiet:
            return
        if sys.stderr.isatty():
            self._draw_bar(done, total, fields)
        elif time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            text = "  ".join(f"{name} {value}" for name, value in fields.items())
            self._line(f"{done}/{total}  {text}")

    def stop(self) -> None:
        """Take the progress bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, message: str) -> None:
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
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=total, text="")
        text = "  ".join(f"[dim]{name}[/] {value}" for name, value in fields.items())
        self._bar.update(self._task, completed=done, total=total, text=text)
        if done >= total:
            self.stop()


def _one_line(text: str) -> str:
    return " ".join(text.split())


console = Console()
