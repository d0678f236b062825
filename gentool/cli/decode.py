"""`gentool decode BACKEND`: one output for each input line, or an edit of a picture."""

from typing import Any

from gentool.cli.commands import add_command
from gentool.cli.decode_images import decode_images
from gentool.cli.decode_text import decode_text
from gentool.cli.help import group
from gentool.cli.translate import translate
from gentool.registry import BACKENDS, draws, options_module

app = group("Turn input lines into outputs, in order; edit pictures.")


def _command(backend: str) -> Any:
    images = options_module(backend).KIND == "images"
    return decode_images if images else decode_text if draws(backend) else translate


for _backend in BACKENDS:
    add_command(
        app,
        _backend,
        _command(_backend),
        backend=_backend,
        section=options_module(_backend).DecodeConfig,
        panel=f"{_backend} (default: the checkpoint's)",
    )
