"""`gentool`, `python -m gentool` and `accelerate launch -m gentool`."""

import os
import signal
import sys
from types import FrameType

STOPPED = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


def main() -> None:
    """Run the command line and exit with its code."""
    closed = _reopen()
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what it tries again: an error will tell
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    for number in STOPPED:
        if several and number == signal.SIGTERM:
            continue  # it may reach us where we wait in C for another process that is no more
        # One that the caller has us ignore, as a shell does for a job in the background, stays so.
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _stop)
    from gentool.cli.main import run

    code = run(sys.argv[1:])
    if "stdout" in closed:
        sys.stdout = None  # what could not be written is not tried again
    sys.exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    """End the command by an exception, so that it can clean up; training has its own way."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            # Modules that are half read swallow exceptions, or make others of them.
            code, what = STOPPED[signal.Signals(number)]
            os.write(2, f"error: {what}\n".encode())
            os._exit(code)
        frame = frame.f_back
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(STOPPED[signal.SIGTERM][0])


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
