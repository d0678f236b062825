"""The backends, one line each. A fifth is a folder in `backends/`, a line here and a recipe."""

import importlib
from typing import Any

from gentool.errors import UsageError, nearest

BACKENDS = {
    "ddpm": "gentool.backends.ddpm",
}


def options_module(name: str) -> Any:
    """The backend's configuration module; imports no torch. Raises UsageError."""
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}", nearest(name, BACKENDS))
    return importlib.import_module(BACKENDS[name])


def backend_class(name: str) -> Any:
    """The class that implements `gentool.protocol.Backend`. Raises UsageError."""
    options_module(name)
    return importlib.import_module(BACKENDS[name] + ".backend").Backend
