"""What a trace costs: the same samples drawn with and without one, in turns.

    python benchmarks/trace.py                                # of the checkpoints that ship
    python benchmarks/trace.py mvtm=runs/mine ddpm=runs/other -n 16 --repeats 9

A side is the drawing and, with a trace, the writing of its file: what `--trace x.html` adds to
`sample` or `decode`. recorded: the trace is kept and no file written.
"""

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from results import append
from timing import alternate

from gentool.checkpoint.load import Loaded, find_checkpoint, load_checkpoint
from gentool.cli.console import console
from gentool.cli.tracing import tracing
from gentool.data.scenes import SceneTexts
from gentool.registry import BACKENDS, backend_options
from gentool.resources import shipped
from gentool.sampling import draw_samples, draw_texts, sample_settings
from gentool.trace import Recorder
from gentool.translation import translate_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("checkpoints", nargs="*", metavar="BACKEND=DIR|NAME")
    parser.add_argument("-n", type=int, default=16, help="samples; 16 is the default of sample")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--ending", default="html", choices=("html", "gif", "png", "jsonl"))
    options = parser.parse_args()
    console.quiet = True
    names = [f"{name}={name}-scenes" for name in BACKENDS]
    there = [text for text in names if text.partition("=")[2] in shipped("checkpoints")]
    figures = []
    for text in options.checkpoints or there:
        backend, _, name = text.partition("=")
        loaded = load_checkpoint(find_checkpoint(name, backend), backend)
        figures += costs(loaded, options)
    append("trace-cost", "python benchmarks/trace.py", figures)


def costs(loaded: Loaded, options: Any) -> list[dict[str, Any]]:
    """What is added to the time of drawing, as a share of it: by recording, and with a file."""
    settings, draw = drawing(loaded, options.n)
    with tempfile.TemporaryDirectory() as folder:

        def traced() -> None:
            target = f"{folder}/x.{options.ending}"
            with tracing(target, "sample", loaded, settings, 0) as recorder:
                draw(recorder)

        sides = {"plain": lambda: draw(None), "recorded": lambda: draw(Recorder())}
        seconds = alternate(sides | {options.ending: traced}, options.repeats)
    figures = []
    for side in ("recorded", options.ending):
        figures.append(
            {"metric": f"cost of a trace[{loaded.run_config.backend}, {side}]",
             "value": round(seconds[side] / seconds["plain"] - 1, 4), "n": options.n, "seed": 0,
             "seconds_per_sample": round(seconds["plain"] / options.n, 5),
             "steps": settings.steps, "checkpoint": loaded.folder.name,
             "repeats": options.repeats, "threads": torch.get_num_threads()}
        )  # fmt: skip
        print(figures[-1], flush=True)
    return figures


def drawing(loaded: Loaded, n: int) -> tuple[Any, Callable[[Recorder | None], object]]:
    """The settings of a checkpoint, and what draws n samples by them: of captions of scenes where
    it reads any."""
    module = backend_options(loaded.run_config.backend)
    how: dict[str, Any] = {"device": "auto", "precision": "auto"}
    lines = [SceneTexts("test", "en-zh")[i].source or "" for i in range(n)]
    if not module.DRAWS:
        settings = sample_settings(loaded, {}, module.DecodeConfig)
        how |= {"batch_tokens": 4096, "n_best": 1}
        return settings, lambda recorder: [
            *translate_lines(loaded, lines, settings, recorder=recorder, **how)
        ]
    settings = sample_settings(loaded, {})
    draw = draw_samples if module.KIND == "images" else draw_texts
    given = {"text": loaded.backend.captions.rows(lines)} if loaded.backend.captions else {}
    return settings, lambda recorder: [
        *draw(loaded, range(n), 0, settings, given=given, batch_size=64, recorder=recorder, **how)
    ]


main()
