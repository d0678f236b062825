"""What a user is told of a failure, and the exit code."""

import errno
import os
import sys
import time

from gentool.cli.console import console
from gentool.cli.processes import several
from gentool.errors import GentoolError, Interrupted, Terminated

_OS_HINTS = {
    errno.EBADF: "standard output is closed, and this is where results go",
    errno.ENOSPC: "what was saved before is whole; make room and repeat the command",
    **dict.fromkeys((errno.EACCES, errno.EROFS), "choose a folder that you may write to"),
}

# What torch says where a CPU has no memory left, by system, and where a GPU has none for its own.
_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")


def report(error: Exception) -> int:
    """Say what failed and what to do about it; the exit code."""
    if isinstance(error, Interrupted | Terminated):
        console.info(f"{error}; {error.hint}")
        return error.exit_code
    if isinstance(error, GentoolError):
        console.error(str(error), error.hint)
        return error.exit_code
    if _is_out_of_memory(error):
        console.error(
            "out of memory",
            "fewer at a time: a smaller --batch-size or --batch-tokens; of a training --set "
            "train.batch_size=N (a validation takes 64 at a time, train.validate_every=0 does "
            "without)",
        )
        return 6
    if isinstance(error, OSError) and error.errno:
        at = f" ({error.filename})" if error.filename else ""
        console.error(f"{os.strerror(error.errno)}{at}", _os_hint(error))
        return 1
    bug = "this is a bug in gentool: please report it, with what --debug adds to the output"
    hint = f"another process died, or {bug}" if several() else bug
    console.error(f"{type(error).__name__}: {error}", hint)
    if several():
        time.sleep(1)  # if another one died, its exit code is the one for the launcher to see
    return 1


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(told in str(error) for told in _NO_MEMORY)


def _os_hint(error: OSError) -> str:
    name = str(error.filename or "")
    if error.errno == errno.EACCES and name:
        place = name
        while place and not os.path.lexists(place):  # what is in a closed folder cannot be seen
            place = os.path.dirname(place)
        if os.path.isdir(place) and not os.access(place, os.X_OK | os.R_OK):
            return f"you may not look into it: chmod +rx {place}"
        if os.path.isfile(name) and not os.access(name, os.R_OK):
            return f"you may not read it: chmod +r {name}"
    return _OS_HINTS.get(error.errno or 0, "")
