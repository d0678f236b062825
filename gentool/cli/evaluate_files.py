"""`gentool eval scenes|images|text`: figures of files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.cli import options
from gentool.cli.console import console
from gentool.cli.figures import Gate, check_syntax, report
from gentool.cli.options import value
from gentool.errors import BadDataError, UsageError
from gentool.evaluate.figures import Figure


def scenes(
    images: Annotated[
        str, typer.Option(metavar="DIR|x.npy", help="Pictures, 32 × 32 RGB, in order of name.")
    ],
    captions: Annotated[
        str | None,
        value("FILE|-", "What picture i should show, on line i."),
    ] = None,
    gate: Gate = None,
    as_json: options.Json = False,
) -> None:
    """Score pictures of the built-in world; with captions, say of each whether it shows its own.

    \b
    gentool eval scenes --images drawn/
    gentool eval scenes --images drawn.npy --captions captions.txt
    """
    check_syntax(gate)
    from gentool.evaluate import scenes as scored
    from gentool.evaluate.attributes import attribute_figures
    from gentool.evaluate.files import read_images
    from gentool.streams import stream_lines

    pixels = read_images(images)
    where: dict[str, Any] = {"images": Path(images).name}
    each: list[Figure] = []
    found: list[scored.Verdict] = []
    if captions is None:
        values = scored.unconditional_figures(pixels)
    else:
        lines = list(stream_lines(captions))
        if len(lines) != len(pixels):
            raise BadDataError(f"{len(pixels)} pictures but {len(lines)} captions")
        found = scored.verdicts(pixels, lines)
        shares, confusion = attribute_figures(found)
        values = scored.captioned_figures(found) | shares
        each += [Figure(k, v, len(pixels), None, None, where, True) for k, v in confusion.items()]
        each += scored.verdict_figures(found, where)
        for number, verdict in enumerate(() if as_json else found):
            console.result(f"{number:4}  {verdict}")
    figures = [Figure(k, v, len(pixels), None, None, where) for k, v in values.items()]
    report(figures + each, gate or [], as_json)
    if strange := [f"{n}" for n, verdict in enumerate(found, start=1) if not verdict.wanted]:
        raise BadDataError(
            f"captions line {', '.join(strange)} describes no scene, and counts as not shown",
            "captions look like: a small red circle in the top left",
        )


def images(
    drawn: Annotated[
        str, typer.Argument(metavar="DIR|x.npy", help="The pictures to judge.", show_default=False)
    ],
    reference: Annotated[str, value("DIR|x.npy", "Those to compare them with.", "--ref")],
    features: Annotated[
        str,
        value(
            "DIR|NAME",
            "What to compare by: a run of train features, a vision model of transformers, or "
            "inception.",
        ),
    ],
    metric: Annotated[
        list[str] | None,
        value("fid|kid", "Repeatable. (default: kid; from 10000 pictures on, fid)"),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    gate: Gate = None,
    as_json: options.Json = False,
) -> None:
    """Compare two sets of pictures: FID and KID.

    \b
    gentool eval images drawn/ --ref photos/ --features runs/features-cifar10
    gentool eval images x.npy --ref y.npy --features inception --metric fid
    """
    check_syntax(gate)
    from gentool.device import pick_device
    from gentool.evaluate.extractors import load_extractor
    from gentool.evaluate.files import read_any_images
    from gentool.evaluate.images import check_comparable, compare

    extractor = load_extractor(features, chosen := pick_device(device))
    ours, theirs = read_any_images(drawn), read_any_images(reference)
    check_comparable(ours, theirs, metric or [])
    names = {"images": Path(drawn).name, "reference": Path(reference).name}
    report(compare(ours, theirs, metric or [], extractor, chosen, seed, names), gate or [], as_json)


def text(
    hypotheses: Annotated[str, typer.Argument(metavar="HYP|-", help="Texts, one on each line.")],
    ref: Annotated[
        list[str], value("FILE", "What line i should be, on line i; repeatable: other references.")
    ],
    tokenize: Annotated[
        str,
        value(
            "13a|zh|char|intl|none",
            "How BLEU finds words. (default: zh where the references are Chinese, else 13a)",
        ),
    ] = "",
    gate: Gate = None,
    as_json: options.Json = False,
) -> None:
    """BLEU, chrF and repetition of texts beside references, with sacrebleu's signatures.

    \b
    gentool eval text out.de --ref test.de
    gentool decode mask-predict test.en | gentool eval text - --ref test.de --json
    """
    check_syntax(gate)
    from gentool.evaluate.translation import scores, scoring
    from gentool.streams import place, stream_lines

    if [hypotheses, *ref].count("-") > 1:
        raise UsageError("only one of HYP and --ref can be standard input")
    scoring(tokenize)
    references = [list(stream_lines(name)) for name in ref]  # the texts may take their time
    texts = list(stream_lines(hypotheses))
    for name, lines in zip(ref, references, strict=True):
        if len(lines) != len(texts):
            raise BadDataError(
                f"{place(hypotheses)} has {len(texts)} lines, {place(name)} has {len(lines)}"
            )
    if not texts:
        raise BadDataError(f"{place(hypotheses)} has no lines, so there is nothing to score")
    with_ = {"hypotheses": Path(hypotheses).name, "references": [Path(name).name for name in ref]}
    figures = [
        Figure(k, score.value, len(texts), None, None, with_ | {"signature": score.signature})
        for k, score in scores(texts, references, tokenize).items()
    ]
    for figure in [] if as_json else figures[:2]:
        console.info(f"{figure.metric}: {figure.settings['signature']}")
    report(figures, gate or [], as_json)
