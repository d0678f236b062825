"""`gentool demo`: what gentool does, shown on built-in data."""

import time
from pathlib import Path
from typing import Annotated

import typer

from gentool.cli.console import console
from gentool.cli.sample import sample
from gentool.errors import UsageError
from gentool.resources import shipped

RECIPE = "ddpm-scenes"


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where the demo goes.")
    ] = Path("gentool-demo"),
    train_time: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="How long to train for.")
    ] = 60.0,
) -> None:
    """Train a small model for a minute, draw from it, and draw from the shipped one.

    \b
    gentool demo
    gentool demo --train-time 10 --out /tmp/demo
    """
    from gentool.resources import read_recipe
    from gentool.training import start

    run = out / "run"
    if out.exists() and any(out.iterdir()) and not (run / "config.json").is_file():
        raise UsageError(f"{out} is in use", "gentool demo --out DIR")
    console.info(f"1. training {RECIPE} for {train_time:.0f} s on the built-in world")
    name, tree = read_recipe(RECIPE)
    backend = tree.pop("backend")
    given = {"train": {"validate_every": 0, "sample_every": 0}}
    plan = start.Plan(backend, name, tree, given, True, run, overwrite=True)
    start.train(plan, "auto", None, time.monotonic() + train_time, console)
    console.info("2. sixteen samples of what that minute taught it")
    sample(backend, {}, checkpoint=str(run), out=str(out / "after-a-minute.png"))
    if RECIPE in shipped("checkpoints"):
        console.info("3. sixteen samples of the shipped checkpoint, the same recipe trained longer")
        sample(backend, {}, checkpoint=RECIPE, out=str(out / "shipped.png"))
    console.info(
        f"""
Next:
  gentool sample ddpm -n 64 --out grid.png       more pictures
  gentool sample ddpm --sampler ddim --steps 10  in fewer steps
  gentool train ddpm --data FOLDER               your own images
  gentool train ddpm --out {run} --resume latest       go on with this run
  gentool --help                                 everything else"""
    )
