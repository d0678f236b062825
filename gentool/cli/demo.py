"""`gentool demo`: what gentool does, shown on built-in data."""

import time
from pathlib import Path
from typing import Annotated

import typer

from gentool.cli.console import console
from gentool.cli.sample_images import sample_images
from gentool.errors import UsageError
from gentool.resources import shipped

RECIPE = "ddpm-scenes"
LONGEST = 150.0  # seconds of training; on two cores the steps take half of it


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where the demo goes.")
    ] = Path("gentool-demo"),
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps to train for.")] = 450,
) -> None:
    """Train a small model for a minute or two, draw from it and from the shipped one.

    \b
    gentool demo
    gentool demo --steps 50 --out /tmp/demo
    """
    from gentool.resources import read_recipe
    from gentool.training import start

    run = out / "run"
    if out.exists() and any(out.iterdir()) and not (run / "config.json").is_file():
        raise UsageError(f"{out} is in use", "gentool demo --out DIR")
    console.info(f"1. training {RECIPE} on the built-in world for {steps} steps")
    name, tree = read_recipe(RECIPE)
    backend = tree.pop("backend")
    given = {"train": {"steps": steps, "validate_every": 0, "sample_every": 0}}
    plan = start.Plan(backend, name, tree, given, True, run, overwrite=True)
    start.train(plan, "auto", None, time.monotonic() + LONGEST, console)
    console.info("2. sixteen samples of what it has learnt")
    sample_images(backend, {}, checkpoint=str(run), out=str(out / "trained-here.png"))
    if RECIPE in shipped("checkpoints"):
        console.info("3. sixteen samples of the shipped checkpoint, trained longer")
        sample_images(backend, {}, checkpoint=RECIPE, out=str(out / "shipped.png"))
    console.info(
        """
Next:
  gentool sample ddpm -n 64 --out grid.png       more pictures
  gentool sample ddpm --sampler ddim --steps 10  in fewer steps
  gentool sample diffusion-lm | gentool decode mask-predict   sentences, translated
  gentool train ddpm --data FOLDER               your own images
  gentool train ddpm --data FOLDER --set data.image_size=64   larger ones
  gentool --help                                 everything else"""
    )
