"""The backends, one line each. A fifth is a folder in `backends/`, a line here and a recipe."""

import importlib
from typing import Any

from gentool.errors import UsageError, nearest

BACKENDS = {
    "ddpm": "gentool.backends.ddpm",
    "diffusion-lm": "gentool.backends.diffusion_lm",
}
# Formats of other libraries that checkpoints are converted from and to.
FORMATS = {
    "diffusers": "gentool.backends.ddpm.diffusers",
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


def converter(name: str) -> Any:
    """The module that reads and writes checkpoints of the format `name`."""
    return importlib.import_module(FORMATS[name])
