"""`gentool data check` and `gentool data show`: pictures here, texts in data_text.py."""

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from gentool.cli import options
from gentool.cli.checked import Findings, conclude
from gentool.cli.commands import add_command
from gentool.cli.console import console
from gentool.cli.help import group
from gentool.cli.values import data_tree
from gentool.data.config import ImageData, TextData
from gentool.errors import UsageError
from gentool.settings import build

Section = TypeVar("Section", ImageData, TextData)

app = group("Check and preview data before training on them.")

Spec = Annotated[
    str,
    typer.Argument(
        metavar="SPEC",
        help="scenes, a folder, FILE.parquet, 'N-{0..9}.tar', hf:NAME, FILE.txt|csv|tsv|jsonl.",
    ),
]
AsText = Annotated[
    bool,
    options.flag("--text", "SPEC has texts: scenes, hf:NAME, train.en."),
]
Assign = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A data setting, e.g. image_size=64 or text_column=body; repeatable.",
        show_default=False,
    ),
]


def check(
    spec: Spec,
    num: Annotated[int | None, options.count("The first N. (default: all; 1000 of scenes)")] = None,
    text: AsText = False,
    tokenizer: Annotated[
        str | None, options.value("DIR|CKPT", "Counts the texts that are too long in its tokens.")
    ] = None,
    assign: Assign = None,
    as_json: options.Json = False,
) -> None:
    """Read every record and report what cannot be used. Exit 4 if there is any.

    \b
    gentool data check photos/
    gentool data check train.parquet --json
    gentool data check 'shard-{00000..00099}.tar'
    gentool data check reviews.csv --set text_column=body --set attributes=stars
    """  # fmt: skip
    from gentool.data.check import Report, scan
    from gentool.data.images import open_images
    from gentool.data.source import Sharded
    from gentool.data.text import is_text

    if text or is_text(spec):
        from gentool.cli.data_text import check_texts

        return check_texts(_config(TextData, spec, assign), num, tokenizer, as_json)
    if tokenizer:
        raise UsageError("--tokenizer is for texts", "--text, if SPEC has texts")
    config = _config(ImageData, spec, assign)
    source = open_images(config)
    report, findings = Report(), Findings(as_json)
    if num is None and source.size is None and not isinstance(source, Sharded):
        num = 1000

    def progress() -> None:
        console.progress(report.n, num or source.size or 0, {"records": "read"})

    for problem in scan(source, config, report, num, progress):
        findings.tell(problem)
    summary = {
        "records": report.n,
        "bad": len(report.bad),
        "sizes": dict(report.sizes.most_common(5)),
        "modes": dict(report.modes),
        "labels": dict(report.labels),
        "captions": report.n - len(report.bad) - report.no_caption,
        "notes": report.notes,
        "fingerprint": source.fingerprint,
    }
    conclude(findings, summary)


def show(
    spec: Spec,
    num: Annotated[int, options.count("How many.", show_default=True)] = 24,
    start: Annotated[int, typer.Option(metavar="I", min=0, help="The first one.")] = 0,
    out: Annotated[
        str | None,
        options.value("x.png", "The contact sheet. (default: a new data.png)", "--out", "-o"),
    ] = None,
    text: AsText = False,
    assign: Assign = None,
) -> None:
    """Draw a numbered contact sheet; captions and classes are printed. Of texts, these alone.

    \b
    gentool data show scenes
    gentool data show train.parquet -n 60 --out sheet.png
    gentool data show captions.txt
    """
    from gentool.data.images import open_images
    from gentool.data.sheet import contact_sheet, describe
    from gentool.data.source import consecutive
    from gentool.data.text import is_text
    from gentool.outputs import check_target, write_picture

    if text or is_text(spec):
        from gentool.cli.data_text import show_texts

        if out:
            raise UsageError("--out is for pictures; texts are printed", "leave it out")
        return show_texts(_config(TextData, spec, assign), start, num)
    if out and not out.endswith(".png"):
        raise UsageError(f"--out {out}: the sheet is a .png")
    check_target(out)
    source = open_images(_config(ImageData, spec, assign))
    examples = consecutive(source, start, num)
    if not examples:
        raise UsageError(f"--start {start}: there is no such record")
    numbers = range(start, start + len(examples))
    path = write_picture(contact_sheet(numbers, examples, 6), Path(out) if out else None, "data")
    for number, example in zip(numbers, examples, strict=True):
        console.result(describe(number, example, source.labels))
    tell = console.info if out else console.result  # the place was chosen here, so it is a result
    tell(f"sheet: {path}")


def _config(section: type[Section], spec: str, assign: list[str] | None) -> Section:
    return build(section, data_tree(spec, assign))


add_command(app, "check", check)
add_command(app, "show", show)
