"""Libraries that may not be there: those of the `[eval]` extra, and trackers."""

import importlib
from typing import Any

from gentool.errors import UsageError


def extra(module: str, what: str) -> Any:
    """The module of that name. Raises UsageError where it is not installed: `what` needs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise UsageError(
            f"{what} needs {library}, which is not installed", f"pip install {library}"
        ) from None
