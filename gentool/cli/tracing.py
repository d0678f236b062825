"""`--trace`: how samples came about, for `sample` and `decode`."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gentool.cli.console import console
from gentool.cli.options import value

if TYPE_CHECKING:
    from gentool.checkpoint.load import Loaded
    from gentool.trace import Recorder

Trace = Annotated[
    str | None,
    value(
        "FILE|-",
        "Keep how it came about: FILE.gif, .png, .html or .jsonl; -: play it on the terminal. "
        "The first 4 samples, at most 50 of their steps.",
        "--trace",
    ),
]


@contextmanager
def tracing(
    target: str | None,
    verb: str,
    loaded: "Loaded",
    settings: Any,
    seed: int | None,
    prompt: Callable[[int], str] = lambda sample: "",
) -> Iterator["Recorder | None"]:
    """A recorder for what is drawn in the block, whose trace then goes to `target`.

    seed: None where there is no chance in it. prompt: what a sample is drawn for.
    """
    if target is None:
        yield None
        return
    from gentool.render.terminal import Player
    from gentool.render.traces import write_trace
    from gentool.trace import Recorder

    player = Player(sys.stderr) if target == "-" else None
    recorder = Recorder(prompt, player.play if player else None)
    console.playing = player is not None
    try:
        yield recorder
    finally:
        console.playing = False
        if player:
            player.stop()
    if not recorder.frames:
        console.warn("nothing was denoised, so there is no trace")
    elif not player:
        facts = {
            "verb": f"gentool {verb}",
            "backend": loaded.run_config.backend,
            "checkpoint": str(loaded.folder),
            "checkpoint_step": loaded.step,
            "seed": seed,
            "command": shlex.join(["gentool", *console.arguments]),
            "settings": asdict(settings),
        }
        console.stop()
        if warning := write_trace(recorder.trace(facts), Path(target)):
            console.warn(warning)
        console.info(f"trace {target}")
