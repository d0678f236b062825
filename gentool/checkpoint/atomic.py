"""Writing files so that a crash or a full disk leaves either the old one or the new one whole."""

import os
from collections.abc import Callable
from pathlib import Path


def write_file(path: Path, data: bytes | Callable[[Path], None]) -> None:
    """Put `data` (or what the callable writes) at `path` by one synced rename.

    Raises OSError (disk full, permission); `path` is then as it was. A link stays one: what it
    names is replaced.
    """
    path = path.resolve()
    beside = path.with_name(f".{path.name}.tmp")
    try:
        if callable(data):
            data(beside)
        else:
            beside.write_bytes(data)
        sync(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the disk hold a file, or a folder's list of names, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
