"""Writing files so that a crash or a full disk leaves either the old one or the new one whole."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gentool.errors import UsageError


def check_place(path: Path) -> None:
    """Raise what writing `path` would: UsageError where a file is in the place of its folder,
    OSError where that may not be written. So it is told before the work, not after it."""
    path = path.resolve()
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe or a device
        return
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file, not a folder", "choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def check_new_folder(out: Path) -> None:
    """Raise UsageError where no new folder can be put by a rename, and as `check_place`."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"{out} already exists", "choose another --out")
    if out.resolve() == Path.cwd():
        raise UsageError(f"--out {out} is the folder you are in", "--out DIR, a new one")
    check_place(out)


def write_file(path: Path, data: bytes | Callable[[Path], None]) -> None:
    """Put `data` (or what the callable writes) at `path` by one synced rename.

    Raises OSError (disk full, permission); `path` is then as it was. A link stays one: what it
    names is replaced.
    """
    with replacing(path) as beside:
        if callable(data):
            data(beside)
        else:
            beside.write_bytes(data)
        sync(beside)
    sync(path.resolve().parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place at the end unless something fails.

    Raises OSError, of `path`, which is then as it was. A link stays one: what it names is replaced.
    """
    place = path.resolve()
    beside = place.with_name(f".{place.name}.tmp")
    try:
        yield beside
        os.replace(beside, place)
    except OSError as error:
        if error.filename == str(beside):  # the user knows the file by its own name
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with suppress(OSError):  # where it could not be made it cannot be looked for either
            beside.unlink()


def sync(path: Path) -> None:
    """Have the disk hold a file, or a folder's list of names, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
