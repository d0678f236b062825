"""Writing files so that a crash or a full disk leaves either the old one or the new one whole."""

import errno
import os
import shutil
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


def create_folder(out: Path, fill: Callable[[Path], None], over: bool = False) -> None:
    """Make the folder `out`, absent or empty, or with `over` whatever it holds: `fill` writes it
    beside, then it appears by one rename. A link to a folder stays one. Raises OSError, and
    UsageError for one that came to be there meanwhile."""
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    beside, old = out.with_name(f".{out.name}.new"), out.with_name(f".{out.name}.old")
    recover_folder(out)
    for leftover in (beside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        beside.mkdir()
        fill(beside)
        if over and out.exists():
            os.replace(out, old)
        os.replace(beside, out)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and error.filename2 == str(out):
            raise UsageError(f"{out} already exists", "choose another --out") from None
        raise
    finally:
        recover_folder(out)
        shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    sync(out.parent)


def recover_folder(out: Path) -> None:
    """Put back what `create_folder` had moved away when it was cut before the new one was there."""
    out = out.resolve()
    old = out.with_name(f".{out.name}.old")
    if old.is_dir() and not out.exists():
        with suppress(FileNotFoundError):  # another process of the same run was first
            os.replace(old, out)


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
