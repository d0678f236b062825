"""`gentool eval`: figures of a checkpoint, or of files."""

from gentool.cli.commands import add_command
from gentool.cli.evaluate_checkpoint import absent, evaluate
from gentool.cli.evaluate_files import images, scenes, text
from gentool.cli.evaluate_pairs import evaluate_pairs
from gentool.cli.evaluate_tokenizer import evaluate_tokenizer
from gentool.cli.help import group
from gentool.registry import BACKENDS, draws, options_module

app = group("Measure a checkpoint, or files.")


for _backend in BACKENDS:
    _module = options_module(_backend)
    _panel = f"{_backend} sampling (default: the checkpoint's)"
    if draws(_backend):
        add_command(
            app, _backend, evaluate, section=_module.SampleConfig, panel=_panel,
            absent=absent(_module), backend=_backend,
        )  # fmt: skip
    else:
        add_command(
            app, _backend, evaluate_pairs, section=_module.DecodeConfig, panel=_panel,
            backend=_backend,
        )  # fmt: skip
add_command(app, "vq", evaluate_tokenizer)
add_command(app, "scenes", scenes)
add_command(app, "images", images)
add_command(app, "text", text)
