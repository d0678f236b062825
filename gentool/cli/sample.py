"""`gentool sample BACKEND`."""

from gentool.cli.commands import add_command
from gentool.cli.help import CONTEXT, group
from gentool.cli.sample_images import sample_images
from gentool.cli.sample_text import sample_text
from gentool.errors import UsageError
from gentool.registry import BACKENDS, draws, options_module

app = group("Draw samples from a trained model.")


def _refuse(backend: str) -> None:
    """Register `gentool sample` for a backend that draws nothing: to say what to type instead."""

    def refuse() -> None:
        raise UsageError(
            f"{backend} draws nothing: it makes each output of an input",
            f"use decode: gentool decode {backend} --help",
        )

    told = f"Nothing to draw: use gentool decode {backend}, not gentool sample {backend}."
    context = CONTEXT | {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command(backend, help=told, hidden=True, context_settings=context)(refuse)


for _backend in BACKENDS:
    if not draws(_backend):
        _refuse(_backend)
        continue
    _module = options_module(_backend)
    add_command(
        app,
        _backend,
        sample_images if _module.KIND == "images" else sample_text,
        backend=_backend,
        absent=("init_noise",) if _module.TOKENS else (),  # they begin with masks
        section=_module.SampleConfig,
        panel=f"{_backend} (default: the checkpoint's)",
    )
