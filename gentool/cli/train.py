"""`gentool train BACKEND`."""

import time
from pathlib import Path
from typing import Annotated

from gentool.cli import options
from gentool.cli.commands import add_command
from gentool.cli.console import console
from gentool.cli.help import group
from gentool.cli.options import flag, value
from gentool.cli.values import assigned, environment, parse_time
from gentool.errors import UsageError
from gentool.registry import BACKENDS, HELPERS, default_recipe
from gentool.resources import read_recipe, recipes_of
from gentool.settings import Tree, merge

app = group("Train a model from a recipe.")


def train(
    backend: str,
    recipe: Annotated[
        str | None,
        value(
            "NAME|FILE",
            "What to train. (default: BACKEND-scenes; features-cifar10)",
            autocompletion=options.recipes,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        value(
            "SPEC",
            "Train on this: scenes, hf:NAME; images in a folder, FILE.parquet, 'N-{0..9}.tar'; "
            "texts in FILE.txt, .csv, .tsv, .jsonl; pairs in SOURCE,TARGET; repeatable.",
        ),
    ] = None,
    assign: options.Assign = None,
    out: Annotated[Path | None, value("DIR", "The run's folder. (default: runs/RECIPE)")] = None,
    resume: Annotated[
        str | None,
        value(
            "auto|latest|PATH",
            "Continue a run: latest (error if there is none), auto (start where there is none), "
            "or a run's or state's folder.",
        ),
    ] = None,
    overwrite: Annotated[bool, flag("--overwrite", "Replace the run in --out.")] = False,
    init: Annotated[str | None, value("CHECKPOINT", "Start a new run from these weights.")] = None,
    steps: Annotated[int | None, value("N", "Steps in all. (default: the recipe's)")] = None,
    stop_at: Annotated[
        int | None, value("N", "Stop at this step, schedule unchanged.", min=1)
    ] = None,
    max_time: Annotated[
        str | None, value("TIME", "Save and stop after, e.g., 90s, 20m, 3h.")
    ] = None,
    seed: Annotated[
        int | None,
        value(
            "N",
            "Seed of everything random. (default: the recipe's)",
            *("--seed", "-s"),
        ),
    ] = None,
    on_error: Annotated[
        str | None, value("stop|skip", "On a record that cannot be read. (default: stop)")
    ] = None,
    device: options.Device = "auto",
    precision: Annotated[
        str | None,
        value("auto|fp32|bf16", "Arithmetic. (default: the recipe's)"),
    ] = None,
    dry_run: Annotated[
        bool, flag("--dry-run", "Check everything, print the settings, train nothing.")
    ] = False,
) -> None:
    """Train {backend}: {about}

    \b
    gentool train {backend}
    gentool train {backend} --data SPEC --set train.batch_size=32 --dry-run
    gentool train {backend} --resume latest --max-time 20m

    Ctrl-C or SIGTERM saves and stops; --resume latest continues to the same bytes.
    """
    deadline = time.monotonic() + parse_time(max_time) if max_time else None
    given = _given(data, on_error, assign, steps, seed, precision)
    if resume and (init or overwrite):
        raise UsageError("--resume goes with neither --init nor --overwrite")
    from gentool.training import start
    from gentool.training.plan import Plan

    name, tree = read_recipe(recipe or default_recipe(backend))
    if tree.pop("backend") != backend:
        raise UsageError(f"recipe {name} is not for {backend}", "gentool list recipes")
    if data and "scenes" not in data and "scenes" in name and not (recipe or resume):
        others = "|".join(other for other in recipes_of(backend) if "scenes" not in other)
        other = f"; for other data: --recipe {others}" if others else ""
        console.info(f"{name} is made for the built-in world{other}")
    plan = Plan(
        backend=backend,
        recipe=name,
        tree=tree,
        given=given,
        environment=environment(),
        recipe_given=recipe is not None,
        out=out,
        resume=resume,
        overwrite=overwrite,
        init=init,
    )
    if dry_run:
        for line in start.describe(plan, device, stop_at, console):
            console.result(line)
        return
    start.train(plan, device, stop_at, deadline, console)


def _given(
    data: list[str] | None,
    on_error: str | None,
    assign: list[str] | None,
    steps: int | None,
    seed: int | None,
    precision: str | None,
) -> Tree:
    """What the command line sets, as a tree over the recipe."""
    given = assigned(assign)
    options: dict[str, Tree] = {
        "data": {"spec": data, "on_error": on_error},
        "train": {"steps": steps, "seed": seed, "precision": precision},
    }
    for section, values in options.items():
        chosen = {key: value for key, value in values.items() if value not in (None, [])}
        given = merge(given, {section: chosen} if chosen else {})
    return given


for _backend in (*BACKENDS, *HELPERS):
    add_command(app, _backend, train, backend=_backend)
