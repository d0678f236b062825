"""What is said while a command works: on a terminal a bar, elsewhere a line now and then."""

import os
import pty
import re
import subprocess
import sys

import pytest

from gentool.cli import console as module
from gentool.cli.console import Console
from gentool.cli.pace import Pace


def test_elsewhere_progress_is_a_line_every_five_seconds(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    console = Console()
    for now in (1, 4.9, 5, 9.9, 10):
        console.progress(int(now), 20, {"loss": "0.5"})
    assert capsys.readouterr() == (
        "", "5/20  loss 0.5  left 0:15\n10/20  loss 0.5  left 0:10\n"
    )  # fmt: skip
    console.quiet, now = True, 99
    console.progress(19, 20, {})
    assert capsys.readouterr() == ("", "")


def test_the_time_left_is_that_of_the_count_that_is_told_of(monkeypatch):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    pace = Pace()
    assert pace.left(7, 10) == "", "as after a resume: nothing was seen of the first seven"
    now += 60
    assert pace.left(8, 10) == "2:00"
    now += 3600
    assert pace.left(1, 1000) == ""
    now += 5
    assert pace.left(2, 1000) == "1:23:10"
    assert pace.left(2, 3000) == "", "another count, that has come as far"
    assert pace.left(9, 0) == "" == pace.left(10, 0), "nobody knows how many"


def on_a_terminal(code: str, **env: str) -> tuple[bytes, bytes]:
    """What a process writes to standard output and to a terminal that is its standard error."""
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs,
        env=kept | {"TERM": "xterm-256color"} | env,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:  # Linux says so that the other side has closed
        pass
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return out, said


@pytest.mark.parametrize("plain", [False, True])
def test_a_terminal_has_a_bar_with_colours_unless_it_is_asked_not_to(plain):
    out, said = on_a_terminal(
        "from gentool.cli.console import console; console.progress(1, 2, {'loss': '0.5'});"
        "console.info('a line'); console.progress(2, 2, {'loss': '0.25'})",
        **({"NO_COLOR": "1"} if plain else {}),
    )
    assert out == b"" and b"a line" in said and b"2/2" in said
    assert bool(re.search(rb"\x1b\[[0-9;]*3[0-9]", said)) is not plain


def test_results_go_to_standard_output_while_there_is_a_bar_on_the_terminal():
    out, said = on_a_terminal(
        "from gentool.cli.console import console; console.progress(1, 3, {});"
        "console.result('a result'); console.progress(2, 3, {}); print('another')"
    )
    assert out == b"a result\nanother\n" and b"another" not in said


def test_a_command_that_ends_early_leaves_no_bar():
    _, said = on_a_terminal(
        "from gentool.cli.main import app, console, run;"
        "app.command('late')(lambda: console.progress(1, 3, {})); run(['late'])"
    )
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l"), "the cursor is hidden"
