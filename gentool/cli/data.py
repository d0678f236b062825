"""`gentool data check` and `gentool data show`."""

from typing import Annotated

import typer

from gentool.cli import options
from gentool.cli.commands import add_command, group
from gentool.cli.console import console
from gentool.data.config import ImageData
from gentool.errors import BadDataError, UsageError
from gentool.settings import build, merge, parse_assignment

app = group("Check and preview data before training on them.")

Spec = Annotated[
    str,
    typer.Argument(
        metavar="SPEC", help="scenes, a folder, FILE.parquet, 'N-{0..9}.tar' or hf:NAME."
    ),
]
Assign = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A data setting, e.g. image_size=64 or image_column=img; repeatable.",
        show_default=False,
    ),
]


def check(
    spec: Spec,
    num: Annotated[
        int | None,
        typer.Option(
            "--num",
            "-n",
            metavar="N",
            min=1,
            show_default=False,
            help="Look at the first N records only. (default: all; 1000 of scenes)",
        ),
    ] = None,
    assign: Assign = None,
    as_json: options.Json = False,
) -> None:
    """Read every record and report what cannot be used. Exit 4 if there is any.

    \b
    gentool data check photos/
    gentool data check train.parquet --json
    gentool data check 'shard-{00000..00099}.tar'
    """  # fmt: skip
    from gentool.data.check import Report, scan
    from gentool.data.images import open_images
    from gentool.data.source import Sharded

    config = _config(spec, assign)
    source = open_images(config)
    report = Report()
    if num is None and source.size is None and not isinstance(source, Sharded):
        num = 1000
    total = num or source.size or 0

    def progress() -> None:
        console.progress(report.n, total, {"records": "read"})

    for problem in scan(source, config, report, num, progress):
        if as_json:
            console.record({"bad": problem.key, "reason": problem.reason})
        else:
            console.result(f"bad: {problem.key}: {problem.reason}")
    console.stop()
    summary = {
        "records": report.n,
        "bad": len(report.bad),
        "sizes": dict(report.sizes.most_common(5)),
        "modes": dict(report.modes),
        "labels": dict(report.labels),
        "notes": report.notes,
        "fingerprint": source.fingerprint,
    }
    if as_json:
        console.record(summary)
    else:
        for name, value in summary.items():
            console.result(f"{name}: {_plain(value)}")
    if report.bad:
        raise BadDataError(
            f"{len(report.bad)} of {report.n} records cannot be used",
            "remove them, or train with --set data.on_error=skip",
        )


def show(
    spec: Spec,
    num: Annotated[int, typer.Option("--num", "-n", metavar="N", min=1, help="How many.")] = 24,
    start: Annotated[int, typer.Option(metavar="I", min=0, help="The first one.")] = 0,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="x.png", help="The contact sheet.")
    ] = "data.png",
    assign: Assign = None,
) -> None:
    """Draw a numbered contact sheet; captions and classes are printed beside it.

    \b
    gentool data show scenes
    gentool data show train.parquet -n 60 --out sheet.png
    """
    from pathlib import Path

    from gentool.data.images import open_images
    from gentool.data.sheet import contact_sheet, describe
    from gentool.data.source import consecutive

    if not out.endswith(".png"):
        raise UsageError(f"--out {out}: the sheet is a .png")
    source = open_images(_config(spec, assign))
    examples = consecutive(source, start, num)
    if not examples:
        raise UsageError(f"--start {start}: there is no such record")
    numbers = range(start, start + len(examples))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(numbers, examples, columns=6).save(out)
    for number, example in zip(numbers, examples, strict=True):
        console.result(describe(number, example, source.labels))
    console.info(f"sheet: {out}")


def _config(spec: str, assign: list[str] | None) -> ImageData:
    tree = {"spec": spec}
    for text in assign or []:
        tree = merge(tree, parse_assignment(text.removeprefix("data.")))
    return build(ImageData, tree)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} × {n}" for k, n in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return str(value)


add_command(app, "check", check)
add_command(app, "show", show)
