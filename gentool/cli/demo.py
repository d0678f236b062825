"""`gentool demo`: the tour. It types commands, as a user would, and shows what they did."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gentool.cli.console import console
from gentool.cli.options import count
from gentool.cli.typed import typed
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.render.tour import Tour, Verdicts

DRAW = ("ddpm", "mvtm")  # pictures
TRAINED, PIPE, PAGE = "trained-here", "pipe", "tour.html"
MOMENT = "30s"  # of training for each, at most
GRID = "9"  # pictures of each backend that draws them, after its moment and as shipped
SHORT = ("train.warmup_steps=10", "train.log_every=1", "train.validation_examples=32")


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where the tour goes.")
    ] = Path("gentool-demo"),
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps to train each for.")] = 60,
    num: Annotated[int, count("Captions to dream up.", show_default=True)] = 16,
) -> None:
    """The tour: each backend trains for a moment, then captions go through all four of them.

    \b
    gentool demo
    gentool demo --steps 20 -n 4 --out /tmp/tour

    It takes a few minutes and no network, and ends in one page, DIR/tour.html.
    """
    from gentool.checkpoint.atomic import write_file
    from gentool.render.tour import Tour, tour_page

    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / TRAINED).is_dir()):
        raise UsageError(f"{out} is in use", "gentool demo --out DIR")
    os.environ.pop("GENTOOL_CHECKPOINT", None)  # the tour is of what is shipped
    shutil.rmtree(out / PIPE, ignore_errors=True)
    (out / TRAINED).mkdir(parents=True, exist_ok=True)
    tour = Tour()
    for name in ("ddpm", "diffusion-lm", "mask-predict", "vq", "mvtm"):
        _train(tour, name, out / TRAINED, steps)
    _pipe(tour, out / PIPE, num)
    write_file(out / PAGE, tour_page(tour).encode())
    console.info(
        """
Next: gentool sample ddpm -n 4 --prompt 'a small red circle in the top left' --out grid.png
      gentool --help
The tour, for a browser:"""
    )
    console.result(str(out / PAGE))


def _train(tour: "Tour", name: str, folder: Path, steps: int) -> None:
    """Train the default recipe for a moment, `mvtm` on the tokens of the `vq` before it."""
    from gentool.render.tour import Training
    from gentool.training.run import Log

    run = folder / name
    tokens = [f"tokenizer.image={folder / 'vq'}"] if name == "mvtm" else []
    settings = [word for value in (*SHORT, *tokens) for word in ("--set", value)]
    length = ("--steps", str(steps), "--max-time", MOMENT)
    done = typed(tour.commands, "train", name, *length, *settings, "--out", str(run), "--overwrite")
    losses = [(r["step"], r["loss"]) for r in Log(run).records() if "loss" in r]
    if done and losses:  # a busy machine may not get to a step in time, or to the codes for mvtm
        training = Training(name, tour.commands[-1][1], losses)
        tour.trainings.append(training)
        console.info(f"loss {losses[0][1]:.3g} at first, {losses[-1][1]:.3g} at last\n")
        if name in DRAW:
            training.grids = _grids(tour, name, run)


def _grids(tour: "Tour", name: str, run: Path) -> list[bytes]:
    """PNG files: what the run draws now, and what the checkpoint that ships draws; or nothing."""
    drawn = []
    for target, checkpoint in ((run.with_suffix(".png"), ["-c", str(run)]),
                               (run.with_name(f"{name}-shipped.png"), [])):  # fmt: skip
        arguments = ("sample", name, *checkpoint, "-n", GRID, "--out", str(target))
        if not typed(tour.commands, *arguments):
            return []
        drawn.append(target.read_bytes())
    return drawn


def _pipe(tour: "Tour", folder: Path, num: int) -> None:
    """Send captions through the shipped checkpoints: what fails is left out, and said."""
    captions, translated = folder / "captions.txt", folder / "captions.zh"
    if not _stage(tour, folder, "sample", "diffusion-lm", "-n", str(num), "--out", str(captions)):
        return
    tour.captions = captions.read_text(encoding="utf-8").split("\n")[:-1]
    if not _stage(tour, folder, "decode", "mask-predict", str(captions), "--out", str(translated)):
        return
    tour.translations = translated.read_text(encoding="utf-8").split("\n")[:-1]
    for name in DRAW:
        drawn = folder / name
        if _stage(tour, folder, "decode", name, str(translated), "--out", f"{drawn}/"):
            tour.pictures[name] = [file.read_bytes() for file in sorted(drawn.glob("*.png"))]
            for what, texts in (("captions", captions), ("translation", translated)):
                if found := _judge(tour, drawn, texts):
                    tour.verdicts[name, what] = found


def _stage(tour: "Tour", folder: Path, verb: str, backend: str, *arguments: str) -> bool:
    """Run a command of the pipe and keep how its first sample came about; False: it failed."""
    from gentool.render import records
    from gentool.trace import Trace

    kept = folder / f"{backend}.jsonl"
    if not typed(tour.commands, verb, backend, *arguments, "--trace", str(kept)):
        return False
    if kept.is_file():
        trace = records.read(kept)
        first = trace.frames[0].sample
        tour.traces[backend] = Trace(trace.facts, [f for f in trace.frames if f.sample == first])
    return True


def _judge(tour: "Tour", images: Path, texts: Path) -> "Verdicts | None":
    """What `eval scenes` says of pictures beside texts."""
    from gentool.render.tour import Verdicts

    files = ("--images", f"{images}/", "--captions", str(texts))
    printed = io.StringIO()  # figures come first, then whether a caption is of no scene
    typed(tour.commands, "eval", "scenes", *files, "--json", printed=printed)
    told = [json.loads(line) for line in printed.getvalue().splitlines()]
    each = [record for record in told if record["metric"].startswith("scene_right[")]
    names = ("scene_accuracy", "scene_validity")
    figures = {r["metric"]: r["value"] for r in told if r["metric"].startswith(names)}
    right, shows = [bool(r["value"]) for r in each], [r["settings"]["shows"] for r in each]
    return Verdicts(figures, right, shows) if told else None
