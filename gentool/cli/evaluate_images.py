"""`gentool eval images`: two sets of pictures compared."""

from pathlib import Path
from typing import Annotated

import typer

from gentool.cli import options
from gentool.cli.figures import Gate, report
from gentool.cli.options import value


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
    from gentool.device import pick_device
    from gentool.evaluate.extractors import load_extractor
    from gentool.evaluate.files import read_any_images
    from gentool.evaluate.images import compare

    ours, theirs = read_any_images(drawn), read_any_images(reference)
    chosen = pick_device(device)
    extractor = load_extractor(features, chosen)
    names = {"images": Path(drawn).name, "reference": Path(reference).name}
    report(compare(ours, theirs, metric or [], extractor, chosen, seed, names), gate or [], as_json)
