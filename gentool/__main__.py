"""`gentool`, `python -m gentool` and `accelerate launch -m gentool`."""

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    closed = _reopen()
    try:
        from gentool.cli.main import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules are read; `run` handles those that come later
        sys.stderr.write("interrupted\n")
        code = 130
    if "stdout" in closed:
        sys.stdout = None  # what could not be written is not tried again
    sys.exit(code)


def _reopen() -> list[str]:
    """Open the standard streams that the caller closed: the next files would take their numbers.
    Nothing comes from them, messages are lost, and writing results fails."""
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:
        flags = os.O_WRONLY if name == "stderr" else os.O_RDONLY
        mode = "r" if name == "stdin" else "w"
        setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))
    return closed


if __name__ == "__main__":
    main()
