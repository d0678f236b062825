"""The backends, one line each. A fifth is a folder in `backends/`, a line here and a recipe; or it
is a package of its own, with an entry point in the group `gentool.backends` (docs/backend.md).

A helper is what a backend or a metric needs beside: `gentool train` trains it as it does a backend,
into the same kind of run, and nothing is drawn from it.
"""

import importlib
from importlib.metadata import entry_points
from typing import Any, Protocol

from gentool.errors import UsageError, nearest


class Options(Protocol):
    """What the configuration module of a backend tells of it, beside its dataclasses: `Config`,
    `DecodeConfig` and, where it draws, `SampleConfig`."""

    KIND: str  # what it makes: images or text
    DRAWS: bool  # from nothing, `gentool sample`; else it only makes outputs of inputs
    TOKENS: bool  # of which it makes pictures
    BOUND: bool  # whether there is one on -log p of held-out data
    Config: type
    DecodeConfig: type


_OWN = {
    "ddpm": "gentool.backends.ddpm",
    "diffusion-lm": "gentool.backends.diffusion_lm",
    "mask-predict": "gentool.backends.mask_predict",
    "mvtm": "gentool.backends.mvtm",
}
BROKEN: dict[str, str] = {}  # backends of other packages that cannot be used, and why


def _installed() -> dict[str, str]:
    """The backends of other packages: name -> module. What is wrong with others goes to BROKEN."""
    found = {}
    for point in entry_points(group="gentool.backends"):
        try:
            module = importlib.import_module(point.value)
            for name in Options.__annotations__:
                getattr(module, name)
            found[point.name] = point.value
        except Exception as error:  # whatever it is, the others are to work
            BROKEN[point.name] = f"{point.value}: {error}"
    return found


BACKENDS = _OWN | _installed() | _OWN  # ours come first, and keep their names
HELPERS = {
    "diffusion-lm-control": "gentool.backends.diffusion_lm.classifier",
    "features": "gentool.evaluate.features",
    "judge": "gentool.evaluate.judge",
    "teacher": "gentool.teacher",
    "vq": "gentool.tokenizers.vq",
}
# Formats of other libraries that checkpoints are converted from and to.
FORMATS = {
    "diffusers": "gentool.backends.ddpm.diffusers",
}
# Other libraries that draw from our checkpoints, to be measured beside us.
PEERS = {
    "ddpm": {"diffusers": "gentool.backends.ddpm.peer"},
}


def backend_options(name: str) -> Options:
    """The configuration module of a backend; imports no torch. Raises UsageError."""
    module: Options = options_module(name)
    return module


def options_module(name: str) -> Any:
    """The configuration module of a backend or helper; imports no torch. Raises UsageError."""
    trained = BACKENDS | HELPERS
    if name not in trained:
        raise UsageError(f"unknown backend {name!r}", nearest(name, trained))
    return importlib.import_module(trained[name])


def draws(name: str) -> bool:
    """Whether the backend draws samples; else it only makes outputs of inputs, `gentool decode`."""
    return backend_options(name).DRAWS


def about(name: str) -> str:
    """What a backend or helper is, in a line: that of its module."""
    first = next(iter((options_module(name).__doc__ or "").splitlines()), "")
    return first.partition(": ")[2]


def default_recipe(name: str) -> str:
    """The recipe that `gentool train` takes where none is named."""
    return str(getattr(options_module(name), "RECIPE", f"{name}-scenes"))


def backend_class(name: str) -> Any:
    """The class that implements `gentool.protocol.Backend`. Raises UsageError."""
    return importlib.import_module(options_module(name).__name__ + ".backend").Backend


def converter(name: str) -> Any:
    """The module that reads and writes checkpoints of the format `name`."""
    return importlib.import_module(FORMATS[name])


def peer(backend: str, name: str) -> Any:
    """The module that draws with the library `name`. Raises UsageError where there is none."""
    known = PEERS.get(backend, {})
    if name not in known:
        raise UsageError(f"{backend} has no peer {name!r}", nearest(name, known) if known else "")
    return importlib.import_module(known[name])
