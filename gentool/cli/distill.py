"""`gentool distill`: a corpus in a teacher's words, for mask-predict to learn from."""

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from gentool.cli import options
from gentool.cli.console import console
from gentool.cli.figures import report
from gentool.cli.options import count, flag, value
from gentool.cli.processes import several
from gentool.cli.translate import BatchTokens
from gentool.cli.values import assigned, environment, parse_time
from gentool.errors import Interrupted, Terminated, UsageError
from gentool.registry import default_recipe
from gentool.resources import read_recipe
from gentool.settings import Tree, build, merge

AGAIN = "the same command goes on"


def distill(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the corpus goes.", show_default=False)
    ],
    teacher: Annotated[
        str | None,
        value(
            "DIR|NAME",
            "Who translates: a run of train teacher, or a seq2seq checkpoint of transformers, a "
            "folder or on the Hub. (default: one is trained first, in DIR/teacher)",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        value(
            "NAME|FILE",
            "What teacher to train, where none is given. (default: teacher-scenes)",
            autocompletion=options.recipes,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        value(
            "SPEC",
            "The pairs: SOURCE,TARGET, a table, hf:NAME, scenes; repeatable. (default: those the "
            "teacher was trained on)",
        ),
    ] = None,
    assign: options.Assign = None,
    num: Annotated[int | None, count("The first N pairs. (default: all)")] = None,
    beam: Annotated[
        int, value("N", "Hypotheses side by side; 1: greedy.", min=1, show_default=True)
    ] = 5,
    batch_tokens: BatchTokens = 4096,
    max_time: Annotated[
        str | None, value("TIME", "Stop after, e.g., 90s, 20m, 3h; what is done is kept.")
    ] = None,
    overwrite: Annotated[bool, flag("--overwrite", "Replace the corpus in --out.")] = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    as_json: options.Json = False,
) -> None:
    """Replace the targets of pairs by a teacher's translations.

    \b
    gentool distill --teacher runs/teacher-multi30k --out distilled
    gentool distill --teacher opus-mt-en-de/ --data train.en,train.de --out it
    gentool distill --recipe teacher-multi30k --out distilled
    gentool train mask-predict --data distilled/source.txt,distilled/target.txt

    The same command goes on with what was cut, to the same bytes. It prints
    what the teacher scores, on pairs that are held out and on the others.
    Held-out ones keep their references.
    """
    deadline = time.monotonic() + parse_time(max_time) if max_time else None
    if several():
        raise UsageError("distill runs in one process", "start it without a launcher")
    if teacher and recipe:
        raise UsageError("--teacher names a teacher, so there is none to train", "drop --recipe")
    given = merge({"data": {"spec": data}} if data else {}, assigned(assign))
    if teacher and (others := [key for key in given if key != "data"]):
        raise UsageError(f"--set {others[0]}.…: the teacher is given", "only data.KEY can be set")
    from gentool.extras import extra
    from gentool.teacher import Config
    from gentool.teacher import distill as corpus
    from gentool.teacher.generate import open_teacher, translated_data
    from gentool.training.plan import over
    from gentool.training.run import held
    from gentool.training.signals import stop_request

    extra("sacrebleu", "the report")  # is it there? Not to be found out after all that decoding
    corpus.check_out(out, overwrite)
    found = open_teacher(teacher, device, precision) if teacher else None
    if teacher:
        name, tree = "", {"data": translated_data(teacher, tuple(data or ()))}
        if not tree["data"]:
            raise UsageError(
                f"{teacher} was not trained here: which pairs?", "--data SOURCE,TARGET"
            )
    else:
        name, tree = read_recipe(recipe or default_recipe("teacher"))
        if tree.pop("backend") != "teacher":
            raise UsageError(f"recipe {name} is not for a teacher", "gentool list recipes")
    config = build(Config, over(tree, given))
    corpus.open_pairs(config.data, num)
    run = out / corpus.TEACHER
    if not teacher and not _train(name, tree, given, recipe is not None, run, device, deadline):
        console.info(f"the teacher is not at its end: {AGAIN}")
        return
    found = found or open_teacher(str(run), device, precision)
    console.info(f"teacher {found.name}, beam {beam}")
    with stop_request(console.info) as request:

        def poll() -> None:
            if request.number:
                stopped = Terminated if request.number == signal.SIGTERM else Interrupted
                raise stopped(f"stopped, kept in {out}", AGAIN)
            if deadline is not None and time.monotonic() >= deadline:
                raise corpus.Late

        try:
            with held(out):
                figures = corpus.distill(
                    found, config.data, num, out, beam=beam, batch_tokens=batch_tokens,
                    overwrite=overwrite, poll=poll, reporter=console,
                )  # fmt: skip
        except corpus.Late:
            console.info(f"no more time; kept in {out}, {AGAIN}")
            return
    report(figures, [], as_json)
    console.info(f"gentool train mask-predict --data {out / corpus.SOURCES},{out / corpus.TARGETS}")


def _train(
    name: str, tree: Tree, given: Tree, named: bool, run: Path, device: str, deadline: float | None
) -> bool:
    """Train the teacher, or go on with it; False if its last step is not reached in time."""
    from gentool.checkpoint.config import read_config
    from gentool.checkpoint.state import reached
    from gentool.training import start
    from gentool.training.plan import Plan

    plan = Plan("teacher", name, tree, given, environment(), named, run, "auto", again=AGAIN)
    start.train(plan, device, None, deadline, console)  # of one that is done, what a crash left
    return reached(run, read_config(run).config["train"]["steps"])
